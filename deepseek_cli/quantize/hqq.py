"""HQQ, half-quadratic quantization (Badri and Shaji, 2023): no data, and a norm that forgives the few largest errors.

It minimizes Σ |W − Ŵ|^p, p < 1, by turns: errors E to be borne are shrunk from W − Ŵ, then the grid is fitted to W − E.
Zero points are whole numbers here, and scales portable, so both are fitted, from several scales: one alone would soon be stuck.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deepseek_cli.ahead import in_order
from deepseek_cli.quantize.grid import round_to_grid, scales_and_zeros, snap
from deepseek_cli.quantize.rtn import in_groups
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import QuantizedTensor, Weight, dense, pack, take_rows

POWER = 0.7  # p
BETA, GROWTH = 10.0, 1.01  # how firmly Ŵ is held to W − E, and how that grows with each step
RATIOS = (1.0, 0.95, 1.05)  # of the range that holds every value: from .7 on, the norm forgave the largest, and models lost most
STEPS = 6  # from each
CACHED_VALUES = 1 << 16  # stay in cache over all steps


def quantize(
    weight: Weight, scheme: Scheme, statistics: object = None, passed: Callable[[], None] = lambda: None
) -> QuantizedTensor:
    """A weight [out, in] to the nearest codes of the grid that `half_quadratic` gives; `passed` is called between chunks of rows.

    Raises ValueError when the weight holds a NaN or an infinity.
    """
    out, inputs = weight.shape
    group, step = scheme.group_of(inputs), max(CACHED_VALUES // inputs, 1)

    def rounded(start: int) -> tuple[Tensor, Tensor, Tensor | None]:
        w = in_groups(dense(take_rows(weight, slice(start, min(start + step, out)))).float(), group)
        scale, zero = half_quadratic(w, scheme)
        return pack(round_to_grid(w, scale, zero, scheme.bits).flatten(1)[:, :inputs].contiguous(), scheme.bits), scale, zero

    parts = []
    for part in in_order(rounded, range(0, out, step)):
        parts.append(part)
        passed()
    packed, scale = torch.cat([codes for codes, _, _ in parts]), torch.cat([scale for _, scale, _ in parts])
    if not scale.isfinite().all():
        raise ValueError("not finite")
    zero = None if scheme.symmetric else torch.cat([zero for _, _, zero in parts if zero is not None])
    return QuantizedTensor(packed, scale, scheme.bits, group, zero)


def half_quadratic(w: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor | None]:
    """The best scales seen, [rows, groups], for w [rows, groups, group], and uint8 zero points where the scheme has them."""
    widest, zero = scales_and_zeros(w, scheme)
    levels = (1 << scheme.bits) - 1
    first = torch.full_like(widest, (levels + 1) // 2) if zero is None else zero.float()
    best_scale, best_middle, least = widest, first, torch.full_like(widest, torch.inf)
    unit = widest.abs()[..., None]  # errors are shrunk in units of a scale, so that a weight's size does not matter
    for scale in (snap(widest * ratio, 8 if scheme.symmetric else 7) for ratio in RATIOS):
        middle = first
        for step in range(STEPS):
            codes = w.div(scale[..., None]).round_().add_(middle[..., None]).clamp_(0, levels)
            error = w - (codes - middle[..., None]) * scale[..., None]
            cost = error.abs().pow_(POWER).sum(-1)
            better = cost < least
            least, best_scale = torch.where(better, cost, least), torch.where(better, scale, best_scale)
            best_middle = torch.where(better, middle, best_middle)
            target = w - shrink(error / unit, BETA * GROWTH**step) * unit
            if zero is not None:
                middle = (codes - target / scale[..., None]).mean(-1).round_().clamp_(0, levels)
            q = codes - middle[..., None]
            scale = snap((q * target).sum(-1) / q.square().sum(-1).clamp_min_(1e-30), 8 if scheme.symmetric else 7)
            scale = scale if scheme.symmetric and not scheme.positive else scale.abs()
    return best_scale, None if zero is None else best_middle.to(torch.uint8)


def shrink(error: Tensor, beta: float) -> Tensor:
    """The generalized soft threshold: what minimizes |E|^p + β/2 (E − error)², to a first approximation."""
    size = error.abs()
    return error.sign() * (size - size.clamp_min(1e-8).pow_(POWER - 1) / beta).clamp_min_(0)
