"""The scale of each group that costs least, by how much each input counts: round to nearest with its eyes open.

For codes q (zero point taken off) and values w, the best scale is Σ i q w / Σ i q², and what it saves of the error is
(Σ i q w)² / Σ i q². So each candidate needs only its codes and two sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepseek_cli.ahead import in_order
from deepseek_cli.quantize import kquants
from deepseek_cli.quantize.grid import round_to_grid, scales_and_zeros, snap
from deepseek_cli.quantize.rtn import in_groups
from deepseek_cli.quantize.statistics import Statistics
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import Quantized, QuantizedTensor, Weight, dense, pack, take_rows

RATIOS = torch.linspace(0.7, 1.15, 16).tolist()  # of the range that holds every value
CACHED_VALUES = 1 << 16  # stay in cache over all candidates
READ_VALUES = 1 << 23  # are read at once


@dataclass(frozen=True, slots=True)
class Grid:
    """What codes are measured in; without `zero` the zero point is the middle of the range."""

    scale: Tensor  # float32 [out, groups]
    zero: Tensor | None  # uint8 [out, groups]
    scheme: Scheme
    group: int


def quantize(
    weight: Weight, scheme: Scheme, statistics: Statistics | None = None, passed: Callable[[], None] = lambda: None
) -> Quantized:
    """A weight [out, in] to the nearest codes of the scales that `find_grid` gives, or `kquants` where they lie in blocks.

    Raises ValueError when the weight holds a NaN or an infinity.
    """
    if scheme.block:
        return kquants.quantize(weight, scheme, statistics, passed)
    importance = None if statistics is None else statistics.importance
    out, inputs = weight.shape
    group = scheme.group_of(inputs)
    packed = torch.empty(out, inputs * scheme.bits // 8, dtype=torch.uint8)
    scale = torch.empty(out, -(-inputs // group))
    zero = None if scheme.symmetric else torch.empty(scale.shape, dtype=torch.uint8)
    step = max(READ_VALUES // inputs, 1)
    for start in range(0, out, step):
        rows = slice(start, min(start + step, out))
        part = dense(take_rows(weight, rows)).float()
        grid = find_grid(part, scheme, importance)
        scale[rows] = grid.scale
        if zero is not None and grid.zero is not None:
            zero[rows] = grid.zero
        packed[rows] = pack(
            round_to_grid(in_groups(part, group), grid.scale, grid.zero, scheme.bits).flatten(1)[:, :inputs], scheme.bits
        )
        passed()
    return QuantizedTensor(packed, scale, scheme.bits, group, zero)


def find_grid(weight: Tensor, scheme: Scheme, importance: Tensor | None = None) -> Grid:
    """Scales, and zero points where the scheme has them, for rows of float32 values; `importance` [in] weighs their errors."""
    group = scheme.group_of(weight.shape[1])
    counts = torch.ones(1, weight.shape[1]) if importance is None else importance[None] / importance.mean().clamp_min(1e-30)
    counts = in_groups(counts.clamp_min(1e-6), group)
    parts = weight.split(max(CACHED_VALUES // weight.shape[1], 1))
    found = list(in_order(lambda part: _best(in_groups(part, group), counts, scheme), parts))
    scale = torch.cat([scale for scale, _ in found])
    if not torch.isfinite(scale).all():
        raise ValueError("not finite")
    return Grid(scale, None if scheme.symmetric else torch.cat([zero for _, zero in found if zero is not None]), scheme, group)


def _best(w: Tensor, counts: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor | None]:
    """w [rows, groups, group], counts [1, groups, group]"""
    widest, zero = scales_and_zeros(w, scheme)
    middle = torch.full((1, 1, 1), float(1 << (scheme.bits - 1))) if zero is None else zero.float()[..., None]
    low, high = -middle, (1 << scheme.bits) - 1 - middle
    counted = w * counts
    codes, product = torch.empty_like(w), torch.empty_like(w)

    def sums(scale: Tensor) -> tuple[Tensor, Tensor]:
        torch.clamp(torch.mul(w, scale.reciprocal()[..., None], out=codes).round_(), low, high, out=codes)
        qw = torch.mul(codes, counted, out=product).sum(-1)
        return qw, torch.mul(codes.square_(), counts, out=product).sum(-1).clamp_min_(1e-30)

    best, scale = torch.full_like(widest, -1.0), widest
    for ratio in RATIOS:
        qw, qq = sums(widest * ratio)
        saved = qw * qw / qq
        better = saved > best
        best, scale = torch.where(better, saved, best), torch.where(better, qw / qq, scale)
    scale = snap(scale, 8 if scheme.symmetric else 7)
    if scheme.positive:
        scale = scale.abs()
    found, plain = (2 * qw * s - qq * s * s for s in (scale, widest) for qw, qq in [sums(s)])
    return torch.where(found > plain, scale, widest), zero
