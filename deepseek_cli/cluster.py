"""A Ray cluster: by default the one that Ray itself would find, or else one of this machine for as long as it takes."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from deepseek_cli import __version__
from deepseek_cli.errors import MissingExtra, NetworkError, ResourceError, UsageError

RETRIES = 3  # of what a worker that dies was at
CONNECT_SECONDS = 10
# Ray reads these when it is loaded. It neither phones home nor speaks on our stdout, what lacks memory is not tried for ever, and
# what it starts here is as urgent as this process.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"[\s\S]*",
    "RAY_worker_niceness": "0",
    "RAY_task_oom_retries": str(RETRIES),
}


def require_ray(*packages: str) -> None:
    """Raises MissingExtra where one of Ray's packages, by the name that it is imported by, is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(
                "--engine ray needs {package}, which is not installed.",
                hint="Install it: pip install {extra}",
                package=package,
                extra="'deepseek-cli[ray]'",
            )


def quiet_ray() -> Any:
    """The package, told to be quiet before it is loaded; one that was loaded before speaks as whoever did so wants it to."""
    os.environ.update(QUIET)
    import ray

    return ray


@contextlib.contextmanager
def joined(address: str | None) -> Iterator[Any]:
    """The package within a cluster; one that was joined before is left alone.

    Raises UsageError for an address that is none, NetworkError where nobody answers.
    """
    ray = quiet_ray()
    ours = not ray.is_initialized()
    if ours:
        _connect(address or os.environ.get("RAY_ADDRESS"))
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    host, _, port = (address or "").rpartition(":")
    try:
        if host and port.isdigit() and "/" not in host:  # Ray itself would try for many minutes
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, include_dashboard=False)
    except OSError as error:
        raise NetworkError(
            "No Ray cluster answers at {address}: {reason}.",
            hint="Check --address, or RAY_ADDRESS; `ray start --head` starts one.",
            address=address or "auto",
            reason=error.strerror or error,
        ) from None
    except ValueError as error:
        raise UsageError(
            "Ray cannot use the address {address}: {reason}",
            hint="Write it as HOST:PORT, or leave it out.",
            address=address,
            reason=error,
        ) from None


def processors() -> list[int]:
    """Of each machine of the cluster."""
    import ray

    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def at_once(threads: int) -> int:
    """How many tasks of so many threads the cluster holds. Raises UsageError where no machine of it has so many processors."""
    found = processors()
    if max(found, default=0) < threads:
        raise UsageError(
            "No machine of the Ray cluster has {threads} processors for a task; the largest has {most}.",
            hint="Say how many threads a task should have: --threads {most}",
            threads=threads,
            most=max(found, default=0),
        )
    return sum(count // threads for count in found)


def check_version(version: str) -> None:
    """In a worker. Raises ResourceError where it has another one than the process that asks."""
    if version != __version__:
        raise ResourceError(
            "A worker of the Ray cluster has deepseek-cli {found}, and this is {version}.",
            hint="Install the same version on all machines.",
            found=__version__,
            version=version,
        )
