"""References to tensors in files. A model is opened, listed and checked with these alone: PyTorch comes with the first read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek_cli.tensors import Weight

DENSE = ("f64", "f32", "f16", "bf16")


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor in a file. Nothing is read until `read` is called."""

    name: str
    shape: tuple[int, ...]
    stored: str  # how its bytes lie on disk: "bf16", "f32", "int4-g32", "q4_k"
    size_bytes: int  # on disk, with scales
    read: Callable[[], Weight]
    release: Callable[[], None] = lambda: None  # lets the pages that `read` touched go

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process may not have the file: the values go along."""
        return TensorRef, (self.name, self.shape, self.stored, self.size_bytes, partial(_given, self.read()))

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    def with_rows(self, order: Sequence[int]) -> TensorRef:
        """The same tensor, its rows in another order."""
        return replace(self, read=lambda: _rows(self.read(), order))

    @property
    def quantized(self) -> bool:
        return self.stored not in DENSE


def _given(weight: Weight) -> Weight:
    return weight


def _rows(weight: Weight, order: Sequence[int]) -> Weight:
    import torch

    from deepseek_cli.tensors import take_rows

    return take_rows(weight, torch.tensor(order))
