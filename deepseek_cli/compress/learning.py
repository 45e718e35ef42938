"""A weight that learns: all of it, or an adapter of low rank beside it, which is one with it in the end.

What was pruned stays zero.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

from deepseek_cli.quantize.fake import DECAYS
from deepseek_cli.quantize.zeros import zeros_of

CHUNK = 1 << 16  # values that are moved at once, so that they stay in the cache from one operation to the next


class Adam:
    """A float32 tensor that goes down its gradient in place, by about the rate a step (arXiv 1412.6980)."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.mean, self.square = torch.zeros_like(value), torch.zeros_like(value)
        self.steps = torch.zeros((), dtype=torch.int64)

    @property
    def parts(self) -> dict[str, Tensor]:
        """All that a step changes."""
        return {"value": self.value, "mean": self.mean, "square": self.square, "steps": self.steps}

    def step(self, gradient: Tensor, rate: float) -> None:
        self.steps += 1
        (first, second), steps = DECAYS, int(self.steps)
        pieces = (t.flatten().split(CHUNK) for t in (self.value, self.mean, self.square, gradient))
        for value, mean, square, piece in zip(*pieces, strict=True):
            slope = piece.float()
            mean.lerp_(slope, 1 - first)
            square.mul_(second).addcmul_(slope, slope, value=1 - second)
            size = square.div(1 - second**steps).sqrt_().add_(1e-20)
            value.addcdiv_(mean, size, value=-rate / (1 - first**steps))


class Whole:
    """All of a weight, in steps that are part of its size."""

    def __init__(self, weight: Tensor) -> None:
        self.adam, self.size = Adam(weight.float().clone(memory_format=torch.contiguous_format)), rms(weight)
        self.zeros = zeros_of(weight)

    @property
    def parts(self) -> dict[str, Tensor]:
        return self.adam.parts

    @property
    def value(self) -> Tensor:
        return self.adam.value

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.value.to(dtype, copy=True)

    def learn(self, gradient: Tensor, rate: float) -> None:
        self.adam.step(without(gradient, self.zeros), rate * self.size)


class Adapted:
    """`weight` [out, in] stays, and `up` [out, rank] times `down` [rank, in] comes to it (LoRA, arXiv 2106.09685).

    Both are measured in the weight's size, so that one rate does for weights of any.
    """

    def __init__(self, weight: Tensor, rank: int, seed: int) -> None:
        self.weight, self.scale, self.zeros = weight, rms(weight) / math.sqrt(rank), zeros_of(weight)
        draws = torch.Generator().manual_seed(seed)
        self.up = Adam(torch.zeros(weight.shape[0], rank))
        self.down = Adam(torch.randn(rank, weight.shape[1], generator=draws))

    @property
    def parts(self) -> dict[str, Tensor]:
        both = {"up": self.up, "down": self.down}
        return {f"{name}.{part}": value for name, adam in both.items() for part, value in adam.parts.items()}

    @property
    def value(self) -> Tensor:
        return without(torch.addmm(self.weight.float(), self.up.value, self.down.value, alpha=self.scale), self.zeros)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.value.to(dtype)

    def learn(self, gradient: Tensor, rate: float) -> None:
        slope = without(gradient.float(), self.zeros) * self.scale
        up, down = slope @ self.down.value.T, self.up.value.T @ slope
        self.up.step(up, rate)
        self.down.step(down, rate)


def without(values: Tensor, zeros: Tensor | None) -> Tensor:
    return values if zeros is None else values.masked_fill(zeros, 0)


def begin(name: str, weight: Tensor, rank: int | None) -> Whole | Adapted:
    """What has no more values than its adapter would have learns as a whole."""
    if rank is None or not adapts(tuple(weight.shape), rank):
        return Whole(weight)
    return Adapted(weight, rank, zlib.crc32(name.encode()))


def state_bytes(shape: tuple[int, ...], rank: int | None) -> int:
    """What it learns with: float32 values and Adam's moments."""
    return 12 * (rank * sum(shape) if rank is not None and adapts(shape, rank) else math.prod(shape))


def adapts(shape: tuple[int, ...], rank: int) -> bool:
    return len(shape) == 2 and rank * sum(shape) < math.prod(shape)


def rms(weight: Tensor) -> float:
    return float(weight.float().square().mean().sqrt())
