"""GPTQ (arXiv 2210.17323): round column after column, each error made good by the columns that are still to come.

Scales are searched first and stay where they are (static groups), so that columns can go in the order of their importance.
Where the original model ran beside the quantized one, the weight is first moved to what best gives the original's outputs
from the inputs it now meets (the aim of GPTAQ, arXiv 2504.02692, solved directly).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepseek_cli.ahead import in_order
from deepseek_cli.quantize.search import Grid, find_grid
from deepseek_cli.quantize.statistics import Statistics
from deepseek_cli.quantize.zeros import zeros_of
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import QuantizedTensor, Weight, dense, pack

DAMPING = 0.03  # of the Hessian's mean diagonal
MOST_DAMPING = 1.0
DRIFT_DAMPING = 1.0
TINY = 1e-20  # where no input was ever there, anything has a factor
BLOCK = 64  # columns


def quantize(weight: Weight, scheme: Scheme, statistics: Statistics) -> QuantizedTensor:
    """A weight [out, in], rounded so that its outputs on the calibration inputs change least.

    Raises ValueError when the weight holds a NaN or an infinity, or a Hessian that has no factor at any damping.
    """
    target, zeros = aimed(dense(weight).float(), statistics)
    grid = find_grid(target, scheme, statistics.importance)
    return as_tensor(round_columns(target, grid, statistics.hessian, zeros), grid)


def aimed(w: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor | None]:
    """What codes are to come close to, and where a pruned weight stays zero."""
    zeros, target = zeros_of(w), with_drift(w, statistics)
    return (target if zeros is None else target.masked_fill(zeros, 0)), zeros


def with_drift(w: Tensor, statistics: Statistics) -> Tensor:
    """W + W D H⁻¹: least squares from the inputs as they are to the outputs of the original model."""
    if statistics.drift is None:
        return w
    lower, _ = cholesky(damped(statistics.hessian, DRIFT_DAMPING, TINY))
    half = torch.linalg.solve_triangular(lower, (w @ statistics.drift).T, upper=False)
    return w + torch.linalg.solve_triangular(lower.mT, half, upper=True).T


def damped(hessian: Tensor, damping: float = DAMPING, least: float = 0.0) -> Tensor:
    """H + λI, λ a part of its mean diagonal, which is taken to be `least` or more."""
    result = hessian.clone()
    result.diagonal().add_(damping * hessian.diagonal().mean().clamp_min(least))
    return result


def round_columns(w: Tensor, grid: Grid, hessian: Tensor, zeros: Tensor | None = None) -> Tensor:
    """uint8 codes [in, out] for w [out, in]: the transposed layout in which a column is one stretch of memory.

    What `zeros` [out, in] says stays zero.

    Rows do not depend on each other: each thread takes some, since the steps are too small to be shared out.
    """
    order = hessian.diagonal().argsort(descending=True, stable=True)
    upper = inverse_factor(hessian, order)
    scale, middle = columns(grid, order)
    rest = w.T[order]
    high = (1 << grid.scheme.bits) - 1
    size = -(-len(w) // torch.get_num_threads())
    held = None if zeros is None else zeros.T[order]

    def work(start: int) -> Tensor:
        rows = slice(start, start + size)
        parts = (rest[:, rows].contiguous(), scale[:, rows].contiguous(), middle[:, rows].contiguous())
        return _round_rows(*parts, upper, high, None if held is None else held[:, rows].contiguous())

    codes = torch.empty(rest.shape, dtype=torch.uint8)
    codes[order] = torch.cat(list(in_order(work, range(0, len(w), size))), dim=1)
    return codes


def _round_rows(rest: Tensor, scale: Tensor, middle: Tensor, upper: Tensor, high: int, zeros: Tensor | None) -> Tensor:
    """uint8 codes like `rest` [in, rows], which is used up."""
    codes = torch.empty(rest.shape, dtype=torch.uint8)
    for start in range(0, len(rest), BLOCK):
        block, factor = rest[start : start + BLOCK], upper[start : start + BLOCK, start : start + BLOCK]
        errors = torch.empty_like(block)
        for i, column in enumerate(block):
            j = start + i
            code = (column / scale[j]).round_().add_(middle[j]).clamp_(0, high)
            if zeros is not None:
                code = code.where(~zeros[j], middle[j])
            codes[j] = code
            torch.sub(column, code.sub_(middle[j]).mul_(scale[j]), out=errors[i]).div_(factor[i, i])
            block[i + 1 :].addr_(factor[i, i + 1 :], errors[i], alpha=-1)
        rest[start + BLOCK :].addmm_(upper[start : start + BLOCK, start + BLOCK :].T, errors, alpha=-1)
    return codes


def columns(grid: Grid, order: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each input in `order`, [in, out]."""
    group = order // grid.group
    middle = torch.full_like(grid.scale, float(1 << (grid.scheme.bits - 1))) if grid.zero is None else grid.zero.float()
    return grid.scale.T[group].contiguous(), middle.T[group].contiguous()


def inverse_factor(hessian: Tensor, order: Tensor) -> Tensor:
    """Upper triangular U with UᵀU = H⁻¹, for the inputs of `hessian` in `order`, damped as little as a factor allows.

    Inputs that are always zero stand alone. Everything happens in one copy: for wide inputs it is the largest thing in memory.
    """
    mean, damping = hessian.diagonal().mean().clamp_min(TINY), DAMPING
    while damping <= MOST_DAMPING:
        work = hessian[order[:, None], order]
        work.diagonal().add_(damping * mean)
        lower, failed = cholesky(work)
        if not failed:
            upper, failed = cholesky(torch.cholesky_inverse(lower, out=lower), upper=True)
            if not failed and torch.stack(upper.mT.aminmax()).isfinite().all():
                return upper
        damping *= 10**0.5
    raise ValueError("no factor")


def cholesky(matrix: Tensor, upper: bool = False) -> tuple[Tensor, Tensor]:
    """The factor of a symmetric `matrix`, in whose memory it is made, and whether that failed."""
    columns_first = matrix if matrix.stride(0) == 1 else matrix.mT  # as LAPACK has them, or it would be copied
    found = torch.linalg.cholesky_ex(columns_first, upper=upper, out=(columns_first, torch.empty((), dtype=torch.int32)))
    return found.L, found.info


def as_tensor(codes: Tensor, grid: Grid) -> QuantizedTensor:
    return QuantizedTensor(pack(codes.T.contiguous(), grid.scheme.bits), grid.scale, grid.scheme.bits, grid.group, grid.zero)
