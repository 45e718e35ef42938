"""Coordinate descent on tr((Ŵ − T) H (Ŵ − T)ᵀ): what GPTQ decides in one pass, reconsidered with all other columns in place.

Each sweep gives every code the value that is best while the rest stands, and then each row the scales that are best for its
codes, by its normal equations. No step raises the error, so it can follow any algorithm.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from deepseek_cli.ahead import in_order
from deepseek_cli.quantize.gptq import aimed, as_tensor, damped, round_columns
from deepseek_cli.quantize.grid import snap
from deepseek_cli.quantize.search import find_grid
from deepseek_cli.quantize.statistics import Statistics
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import QuantizedTensor, Weight, dense, pack

SWEEPS = 3
BLOCK = 64  # columns
EQUATIONS = 1 << 24  # values of normal equations that are solved at once
RIDGE = 1e-4  # of their diagonal


def quantize(weight: Weight, scheme: Scheme, statistics: Statistics) -> QuantizedTensor:
    """A weight [out, in], rounded as GPTQ would and refined.

    Raises ValueError when the weight holds a NaN or an infinity, or a Hessian that has no factor at any damping.
    """
    target, zeros = aimed(dense(weight).float(), statistics)
    grid = find_grid(target, scheme, statistics.importance)
    rounded = as_tensor(round_columns(target, grid, statistics.hessian, zeros), grid)
    return refine(target, rounded, damped(statistics.hessian), SWEEPS, zeros)


def refine(
    target: Tensor, quantized: QuantizedTensor, hessian: Tensor, sweeps: int, zeros: Tensor | None = None
) -> QuantizedTensor:
    """`quantized`, codes and scales moved closer to `target` [out, in] as `hessian` [in, in] measures it; zero points stay.

    So do the codes where `zeros` [out, in] is true.
    """
    size = -(-len(target) // torch.get_num_threads())
    held = torch.zeros(1, 1, dtype=torch.bool).expand_as(target) if zeros is None else zeros
    parts = [slice(start, start + size) for start in range(0, len(target), size)]
    refined = list(in_order(lambda rows: _refine_rows(target[rows], quantized.rows(rows), hessian, sweeps, held[rows]), parts))
    return replace(quantized, packed=torch.cat([q.packed for q in refined]), scale=torch.cat([q.scale for q in refined]))


def _refine_rows(target: Tensor, quantized: QuantizedTensor, hessian: Tensor, sweeps: int, held: Tensor) -> QuantizedTensor:
    group = torch.arange(target.shape[1]) // quantized.group  # of each input
    scale = quantized.scale.T.contiguous()  # [groups, out]: a column of the weight is one stretch of memory
    middle = torch.full_like(scale, 1 << (quantized.bits - 1)) if quantized.zero is None else quantized.zero.T.float()
    low = -middle[group]
    high = low + ((1 << quantized.bits) - 1)
    q, t = quantized.codes.T + low, target.T.contiguous()  # [in, out]
    slope = hessian @ (q * scale[group] - t)
    before = after = ((q * scale[group] - t) * slope).sum(0)
    for _ in range(sweeps):
        descend(q, slope, hessian, scale[group], (low, high), held.T)
        scale = refit(q, scale, slope, hessian, quantized.group, bits=8 if quantized.zero is None else 7)
        error = q * scale[group] - t
        slope = hessian @ error
        after = (error * slope).sum(0)
    better = (after < before)[:, None]  # sums in float32 can hide a step the other way
    packed = pack((q - low).T.to(torch.uint8).contiguous(), quantized.bits)
    return replace(
        quantized, packed=torch.where(better, packed, quantized.packed), scale=torch.where(better, scale.T, quantized.scale)
    )


def descend(q: Tensor, slope: Tensor, hessian: Tensor, scale: Tensor, bounds: tuple[Tensor, Tensor], held: Tensor) -> None:
    """One sweep over the columns of q [in, out] but where `held`, in place, and so `slope` = H (Ŵ − T)ᵀ.

    All but `hessian` are [in, out].
    """
    step, (low, high) = (1 / (scale * hessian.diagonal().clamp_min(1e-30)[:, None])).masked_fill_(held, 0), bounds
    for start in range(0, len(q), BLOCK):
        block = slice(start, start + BLOCK)
        near, inner = slope[block].clone(), hessian[block, block]
        moved = torch.empty_like(near)
        for i, j in enumerate(range(start, start + len(near))):
            best = torch.addcmul(q[j], near[i], step[j], value=-1).round_().clamp_(low[j], high[j])
            torch.mul(best.sub(q[j]), scale[j], out=moved[i])
            q[j] = best
            near[i + 1 :].addr_(inner[i, i + 1 :], moved[i])
        slope.addmm_(hessian[:, block], moved)


def refit(q: Tensor, scale: Tensor, slope: Tensor, hessian: Tensor, group: int, bits: int) -> Tensor:
    """Scales [groups, out] of `bits` that are best for q [in, out]; a row that portable values would make worse keeps its own."""
    in_groups = lambda x: torch.stack([part.sum(0) for part in x.split(group)])  # noqa: E731  [in, out] to [groups, out]
    rows, refitted = max(EQUATIONS // len(scale) ** 2, 1), []
    for part, old, steep in zip(q.split(rows, 1), scale.split(rows, 1), slope.split(rows, 1), strict=True):
        columns = zip(hessian.split(group, 1), part.split(group), strict=True)
        normal = torch.stack([in_groups(part * (h @ p)) for h, p in columns]).permute(2, 0, 1)  # Q_gᵀ H Q_g' of each row
        pull = in_groups(part * steep).T[..., None]  # [out, groups, 1]
        ridge = torch.diag_embed(RIDGE * normal.diagonal(dim1=1, dim2=2) + 1e-30)
        factor, failed = torch.linalg.cholesky_ex(normal + ridge)
        held = old.T[..., None]
        wanted = held - torch.cholesky_solve(pull, factor)
        change = snap(torch.where(wanted * held > 0, wanted, held), bits) - held  # no scale changes its sign
        gain = (change * (normal @ change + 2 * pull)).sum((1, 2))
        refitted.append(torch.where((gain < 0) & (failed == 0), (held + change)[..., 0].T, old))
    return torch.cat(refitted, 1)
