"""Where weights are rounded: in this process, or as tasks on the machines of a Ray cluster. Nothing else differs, no bit either.

A task gets the values that it works on, laid out as they lie here, and computes with as many threads as this process would.
So machines of one kind give the same result, and work that one engine began another may finish.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from deepseek_cli import __version__
from deepseek_cli.ahead import in_order
from deepseek_cli.errors import MissingExtra, NetworkError, ResourceError, UsageError
from deepseek_cli.reporter import Reporter

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # tasks under way for each that can run at once, so that none waits for its values
RETRIES = 3  # of a task whose worker dies
CONNECT_SECONDS = 10
# Ray reads these when it is loaded. It neither phones home nor speaks on our stdout, and what lacks memory is not tried for ever.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"[\s\S]*",
    "RAY_task_oom_retries": str(RETRIES),
}


class Engine(Protocol):
    """`work` on items, its results in their order. It must be a function of a module, of values that can be pickled."""

    def one_thread(self, work: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
        """Several at a time, each on a single thread."""

    def all_threads(self, work: Callable[..., R], items: Iterable[Any], *shared: Any) -> Generator[R, None, None]:
        """`work(item, *shared)`, each on as many threads as PyTorch has here."""

    def started(self, reporter: Reporter) -> contextlib.AbstractContextManager[Engine]:
        """What serves within the block."""


class Local:
    """Works in this process."""

    def one_thread(self, work: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
        return in_order(work, items)

    def all_threads(self, work: Callable[..., R], items: Iterable[Any], *shared: Any) -> Generator[R, None, None]:
        return (work(item, *shared) for item in items)

    def started(self, reporter: Reporter) -> contextlib.AbstractContextManager[Engine]:
        return contextlib.nullcontext(self)


LOCAL = Local()


class Cluster:
    """Works on a Ray cluster, by default the one that Ray itself would find, or else one of this machine for as long as it takes.

    Raises MissingExtra where Ray is not installed.
    """

    def __init__(self, address: str | None = None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise MissingExtra(
                "--engine ray needs Ray, which is not installed.",
                hint="Install it: pip install {extra}",
                extra="'deepseek-cli[ray]'",
            )
        self.address = address

    @contextlib.contextmanager
    def started(self, reporter: Reporter) -> Iterator[Self]:
        """Raises UsageError for an address that is none, NetworkError where nobody answers."""
        ray = quiet_ray()
        ours = not ray.is_initialized()
        if ours:
            _connect(self.address or os.environ.get("RAY_ADDRESS"))
        ray.util.register_serializer(Tensor, serializer=_sent, deserializer=_arrived)
        try:
            threads = torch.get_num_threads()
            reporter.note("Ray: {tasks} tasks at once, of {threads} threads.", tasks=_at_once(threads), threads=threads)
            yield self
        finally:
            ray.util.deregister_serializer(Tensor)
            if ours:
                ray.shutdown()

    def one_thread(self, work: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
        return self._tasks(work, items, (), 1)

    def all_threads(self, work: Callable[..., R], items: Iterable[Any], *shared: Any) -> Generator[R, None, None]:
        return self._tasks(work, items, shared, torch.get_num_threads())

    def _tasks(
        self, work: Callable[..., R], items: Iterable[Any], shared: tuple[Any, ...], threads: int
    ) -> Generator[R, None, None]:
        import ray

        task = ray.remote(_task).options(num_cpus=threads, max_retries=RETRIES)
        kept = [ray.put(value) for value in shared]  # once for all tasks of a machine
        mode = __version__, threads, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        most = AHEAD * _at_once(threads)
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(task.remote(mode, work, item, *kept))
                if len(waiting) >= most:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for unwanted in waiting:
                ray.cancel(unwanted)


def find_engine(name: str, address: str | None = None) -> Engine:
    """The engine of a name. Raises UsageError for one that there is not, and what `Cluster` raises."""
    if name not in ("local", "ray"):
        raise UsageError("There is no engine named {name!r}.", hint="There are local and ray.", name=name)
    return Cluster(address) if name == "ray" else LOCAL


def quiet_ray() -> Any:
    """The package, told to be quiet before it is loaded; one that was loaded before speaks as whoever did so wants it to."""
    os.environ.update(QUIET)
    import ray

    return ray


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


def _at_once(threads: int) -> int:
    """How many tasks of so many threads the cluster holds. Raises UsageError where no machine of it has so many processors."""
    import ray

    processors = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if max(processors, default=0) < threads:
        raise UsageError(
            "No machine of the Ray cluster has {threads} processors for a task; the largest has {most}.",
            hint="Say how many threads a task should have: --threads {most}",
            threads=threads,
            most=max(processors, default=0),
        )
    return sum(count // threads for count in processors)


def _result(future: Any) -> Any:
    """What a task gave, or the error that it raised. Raises ResourceError where it could not run."""
    import ray
    from ray.exceptions import RayError, RaySystemError, RayTaskError

    try:
        return ray.get(future)
    except RayTaskError as error:
        failure = error.cause
        if not isinstance(failure, RaySystemError):
            raise failure from None
    except RayError as error:
        failure = error
    raise ResourceError(
        "Ray could not finish a task: {reason}",
        hint="Its workers need deepseek-cli, and memory: more --threads for each task make fewer at once.",
        reason=str(failure).splitlines()[0],
    )


def _task(mode: tuple[str, int, bool, bool], work: Callable[..., R], item: Any, *shared: Any) -> R:
    """In a worker: `work(item, *shared)` as it would be done in the process that asks for it."""
    import ray

    version, threads, graph, inference = mode
    if version != __version__:
        raise ResourceError(
            "A worker of the Ray cluster has deepseek-cli {found}, and this is {version}.",
            hint="Install the same version on all machines.",
            found=__version__,
            version=version,
        )
    ray.util.register_serializer(Tensor, serializer=_sent, deserializer=_arrived)  # for the way back
    torch.set_num_threads(threads)
    with torch.inference_mode(inference), torch.set_grad_enabled(graph):
        return work(item, *shared)


Bytes = tuple[Any, torch.dtype, torch.Size, tuple[int, ...]]  # a numpy array of uint8, which Ray moves without copies


def _sent(tensor: Tensor) -> Bytes:
    tensor = tensor.detach()
    plain = tensor.contiguous()
    stride = plain.stride() if 0 in tensor.stride() else tensor.stride()
    return plain.flatten().view(torch.uint8).numpy(), tensor.dtype, tensor.shape, stride


def _arrived(sent: Bytes) -> Tensor:
    """In memory of PyTorch's own, aligned and strided as before: a matrix product may sum in another order where it is not."""
    raw, dtype, shape, stride = sent
    values = torch.empty(raw.size, dtype=torch.uint8)
    values.numpy()[:] = raw
    values = values.view(dtype).view(shape)
    return values if values.stride() == stride else torch.empty_strided(shape, stride, dtype=dtype).copy_(values)
