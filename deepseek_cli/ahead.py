"""Work on tensors in several threads, a few ahead of what takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
    """`work(item)` for each, in order, in as many threads as PyTorch has; at most one more is in memory.

    Each thread computes alone: PyTorch's own would wait for one another at every operator. Gradients and inference mode are
    as they are where this is called.
    """
    threads, graph, inference = torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def alike(item: T) -> R:
        with torch.inference_mode(inference), torch.set_grad_enabled(graph):
            return work(item)

    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(alike, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)
