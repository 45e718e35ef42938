"""Where weights are rounded: in this process, or as tasks on the machines of a Ray cluster. Nothing else differs, no bit either.

A task gets the values that it works on, laid out as they lie here, and computes with as many threads as this process would.
So machines of one kind give the same result, and work that one engine began another may finish.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from deepseek_cli import __version__
from deepseek_cli.ahead import in_order
from deepseek_cli.cluster import RETRIES, at_once, check_version, joined, require_ray
from deepseek_cli.errors import ResourceError, UsageError
from deepseek_cli.reporter import Reporter

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # tasks under way for each that can run at once, so that none waits for its values


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
        require_ray("ray")
        self.address = address

    @contextlib.contextmanager
    def started(self, reporter: Reporter) -> Iterator[Self]:
        """Raises UsageError for an address that is none, NetworkError where nobody answers."""
        with joined(self.address) as ray:
            ray.util.register_serializer(Tensor, serializer=_sent, deserializer=_arrived)
            try:
                threads = torch.get_num_threads()
                reporter.note("Ray: {tasks} tasks at once, of {threads} threads.", tasks=at_once(threads), threads=threads)
                yield self
            finally:
                ray.util.deregister_serializer(Tensor)

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
        most = AHEAD * at_once(threads)
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
    check_version(version)
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
