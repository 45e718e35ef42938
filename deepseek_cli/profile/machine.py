"""The machine and the versions that a report was made with. No environment variables, no paths."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from deepseek_cli import __version__

CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory.limit_in_bytes")  # of version 2, and 1
NO_LIMIT = 1 << 60
PACKAGES = ("torch", "onnxruntime", "numpy")


def machine() -> dict[str, Any]:
    import psutil

    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "limit_bytes": cgroup_limit(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {
            "deepseek-cli": __version__,
            "python": platform.python_version(),
            **{p: v for p in PACKAGES if (v := version(p))},
        },
    }


def processor() -> str:
    """The processor's name as the system writes it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cgroup_limit() -> int | None:
    """The memory this process's control group allows, or one around it, where there is a limit; bytes."""
    if sys.platform != "linux":
        return None
    limits = [limit for folder in _groups() for name in LIMITS if (limit := _limit(folder / name))]
    return min(limits, default=None)


def process_limit() -> int | None:
    """The most that this process may hold: its control group's limit, or that of its addresses (ulimit -v)."""
    limits = [cgroup_limit()]
    if sys.platform != "win32":
        import resource

        addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits.append(None if addresses == resource.RLIM_INFINITY else addresses)
    return min((limit for limit in limits if limit is not None), default=None)


def _groups() -> Iterator[Path]:
    """The folders of this process's control group and of those around it."""
    try:
        lines = CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = CGROUPS / "memory" if "memory" in controllers.split(",") else CGROUPS
        if not controllers or "memory" in controllers.split(","):
            group = Path(path.lstrip("/"))
            yield from (root / each for each in (group, *group.parents))


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < NO_LIMIT else None


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
