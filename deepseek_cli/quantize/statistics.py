"""What calibration knows about a weight: how its inputs vary together, and a few of them held out to judge by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

HELD_OUT = 512  # rows


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the inputs x (rows) that a weight [out, in] meets in the quantized model, some counting more than others (w).

    `drift` is there where the original model ran beside it, but for the head: what rounding earlier layers did to the inputs.
    """

    hessian: Tensor  # float32 [in, in]: Σ w x xᵀ / Σ w
    held_out: Tensor  # float32 [rows, in]; these are not in the Hessian
    tokens: int
    drift: Tensor | None = None  # float32 [in, in]: Σ (original − x) xᵀ / tokens
    held_out_original: Tensor | None = None

    @property
    def importance(self) -> Tensor:
        """Mean square of each input, [in]"""
        return self.hessian.diagonal()

    def error(self, weight: Tensor, candidate: Tensor) -> float:
        """Mean square difference of the outputs on the held-out inputs, from those of the original model where it ran."""
        wanted = (self.held_out if self.held_out_original is None else self.held_out_original) @ weight.T
        return float((wanted - self.held_out @ candidate.T).square().mean())

    def flattened(self, share: float) -> Statistics:
        """With that share of the mean square of all inputs more on each, as if noise were among them."""
        hessian = self.hessian.clone()
        hessian.diagonal().add_(share * hessian.diagonal().mean())
        return replace(self, hessian=hessian)

    def over(self, scale: Tensor) -> Statistics:
        """Of each input over its `scale` [in]: what a weight meets whose columns are multiplied by it."""
        both = scale[:, None] * scale
        return replace(
            self,
            hessian=self.hessian / both,
            held_out=self.held_out / scale,
            drift=None if self.drift is None else self.drift / both,
            held_out_original=None if self.held_out_original is None else self.held_out_original / scale,
        )


def gather(parts: Iterable[tuple[Tensor, Tensor | None]], count: int) -> Statistics:
    """Of `count` pairs (inputs [rows, in], original inputs or None); the last pair is held out, of a single one its end."""
    hessian = drift = None
    held, tokens = torch.empty(0), 0
    held_original: Tensor | None = None
    for i, (x, original) in enumerate(parts):
        learned = 0 if 0 < i == count - 1 else len(x) if count > 1 else max(len(x) * 7 // 8, 1)
        wide = x[:learned].float()
        if hessian is None:
            hessian = torch.zeros(x.shape[1], x.shape[1])
            drift = None if original is None else torch.zeros_like(hessian)
        with products_of(x.dtype):
            hessian.addmm_(wide.T, wide)
            if original is not None and drift is not None:
                drift.addmm_((original[:learned] - x[:learned]).float().T, wide)
        tokens += learned
        rest = slice(learned if learned < len(x) else 0, None)
        held, held_original = _spread(x[rest]), None if original is None else _spread(original[rest])
    assert hessian is not None
    return Statistics(hessian.div_(tokens), held, tokens, None if drift is None else drift.div_(tokens), held_original)


@contextlib.contextmanager
def products_of(dtype: torch.dtype) -> Iterator[None]:
    """Sums in float32 of products of values that are bfloat16 already: as exact, and twice as fast where a CPU has them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def gather_weighted(x: Tensor, weight: Tensor, tokens: int) -> Statistics:
    """Of inputs [rows, in] that count as much as `weight` [rows] says; `tokens` of them are the weight's own.

    Every eighth row is held out.
    """
    held = torch.arange(len(x)) % 8 == 7
    wide, weight = x[~held].float(), weight[~held]
    return Statistics((wide.T * (weight / weight.sum())) @ wide, _spread(x[held]), tokens)


def _spread(rows: Tensor) -> Tensor:
    return rows[:: max(len(rows) // HELD_OUT, 1)].float()
