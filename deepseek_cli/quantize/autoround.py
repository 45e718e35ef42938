"""SignRound (arXiv 2309.05516), the method of AutoRound, on one weight: rounding and scales learned by the signs of gradients.

Ŵ = s (clamp(⌊T/s + V⌉ + z) − z), with an offset V for each value and a factor on each group's scale, minimizes
tr((Ŵ − T) H (Ŵ − T)ᵀ). Rounding counts as the identity when the gradient, (Ŵ − T) H, is taken. Rows do not depend on
each other: each keeps its best codes and scales of all steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.ahead import in_order
from deepseek_cli.quantize.gptq import aimed, damped
from deepseek_cli.quantize.grid import snap
from deepseek_cli.quantize.rtn import in_groups
from deepseek_cli.quantize.search import Grid, find_grid
from deepseek_cli.quantize.statistics import Statistics, products_of
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import QuantizedTensor, Weight, dense, pack

STEPS = 50
RATE = 0.5  # what all steps would add up to if they did not decay; half the paper's, since it ends lower
CACHED_VALUES = 1 << 17  # stay in cache over all steps


def quantize(weight: Weight, scheme: Scheme, statistics: Statistics) -> QuantizedTensor:
    """A weight [out, in], its rounding and scales learned, from the nearest codes of the scales that `find_grid` gives.

    Raises ValueError when the weight holds a NaN or an infinity.
    """
    target, _ = aimed(dense(weight).float(), statistics)
    return learn(target, find_grid(target, scheme, statistics.importance), damped(statistics.hessian), STEPS)


def learn(target: Tensor, grid: Grid, hessian: Tensor, steps: int) -> QuantizedTensor:
    """Codes and scales for `target` [out, in], learned from those of `grid`."""
    inputs, bits = target.shape[1], grid.scheme.bits
    short = -inputs % grid.group
    padded = F.pad(hessian, (0, short, 0, short))
    middle = torch.full_like(grid.scale, 1 << (bits - 1)) if grid.zero is None else grid.zero.float()
    rows = max(CACHED_VALUES // inputs, 1)
    parts = zip(target.split(rows), grid.scale.split(rows), middle.split(rows), strict=True)
    work = lambda part: _learn(in_groups(part[0], grid.group), part[1], part[2], padded, grid.scheme, steps)  # noqa: E731
    with products_of(torch.bfloat16):  # signs need no more, and costs differ by 1e-4
        codes, scale = (torch.cat(learned) for learned in zip(*in_order(work, parts), strict=True))
    return QuantizedTensor(pack(codes.flatten(1)[:, :inputs].contiguous(), bits), scale, bits, grid.group, grid.zero)


def _learn(target: Tensor, first: Tensor, zero: Tensor, hessian: Tensor, scheme: Scheme, steps: int) -> tuple[Tensor, Tensor]:
    """uint8 codes like `target`, [rows, groups, group]; scales like `first` and `zero`, [rows, groups]"""
    highest, bits = (1 << scheme.bits) - 1, 8 if scheme.symmetric else 7
    first, zero = first[..., None], zero[..., None]
    offset, factor = torch.zeros_like(target), torch.ones_like(first)
    codes, scales = torch.empty(target.shape, dtype=torch.uint8), first.clone()
    least = torch.full(target.shape[:1], torch.inf)
    for step in range(steps + 1):
        scale = snap(first * factor, bits)
        latent = target / scale
        wanted = (latent + offset).round_().add_(zero)
        code = wanted.clamp(0, highest)
        inside, q = code == wanted, code - zero  # what is clamped does not move with its offset
        error = q * scale - target
        slope = (error.flatten(1) @ hessian).view_as(error)
        cost = (error * slope).sum((1, 2))
        better = cost < least
        least[better], codes[better], scales[better] = cost[better], code[better].to(torch.uint8), scale[better]
        rate = RATE * (1 - step / steps) / steps
        offset.sub_((slope * scale * inside).sign_(), alpha=rate).clamp_(-0.5, 0.5)
        factor.sub_((slope * (q - latent * inside)).sum(-1, keepdim=True).mul_(first).sign_(), alpha=rate)
    return codes, scales[..., 0]
