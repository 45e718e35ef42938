"""What PyTorch's operators allocate: the most that is alive within each layer, counted at every operator."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """`peaks` maps what `layer` says to the most bytes alive meanwhile of tensors that were made inside, views counted once.

    `known` tensors, such as weights and the KV cache, are not counted. What a kernel allocates for itself is not seen.
    """

    def __init__(self, layer: Callable[[], str], known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.peaks, self.now = layer, dict[str, int](), 0
        self.alive = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        layer = self.layer()
        self.peaks[layer] = max(self.peaks.get(layer, 0), self.now)
        return result

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.now += self.alive[key]
            weakref.finalize(storage, self._free, key).atexit = False

    def _free(self, key: int) -> None:
        self.now -= self.alive.pop(key)
