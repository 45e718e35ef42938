"""A low-rank correction of what rounding lost: W ≈ Q + B A (LQER, arXiv 2402.02446; at the optimum of QERA, arXiv 2410.06040).

With E = W − Q and inputs x whose mean x xᵀ is H, the outputs' mean square error is tr((E − B A) H (E − B A)ᵀ). Least at rank r
is the projection of E onto the r leading eigenvectors of E H Eᵀ: B has them as columns, and A = Bᵀ E.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepseek_cli.quantize.gptq import TINY, damped, with_drift
from deepseek_cli.quantize.statistics import Statistics
from deepseek_cli.tensors import CorrectedTensor, Quantized, QuantizedTensor, Weight, dense

DTYPE = torch.bfloat16  # as it is stored


def corrected(weight: Weight, rounded: Quantized, rank: int, statistics: Statistics | None = None) -> Quantized:
    """`rounded` with a correction of `rank` towards `weight`, or itself without one.

    Without statistics all inputs count alike.
    """
    if not rank:
        return rounded
    assert isinstance(rounded, QuantizedTensor)
    target = dense(weight).float()
    error = (target if statistics is None else with_drift(target, statistics)) - rounded.dequantize()
    up = leading(error, None if statistics is None else damped(statistics.hessian, least=TINY), min(rank, *error.shape))
    down = up.T @ error
    share = down.norm(dim=1).sqrt().clamp_min(TINY)  # of a pair's magnitude, for either side: float16 may have to hold both
    return CorrectedTensor(rounded, (up * share).to(DTYPE), (down / share[:, None]).to(DTYPE))


def leading(error: Tensor, hessian: Tensor | None, rank: int) -> Tensor:
    """The leading eigenvectors of E H Eᵀ as columns, [out, rank], by way of the narrower side of E."""
    out, inputs = error.shape
    if out <= inputs:
        return _eigenvectors(error @ (error if hessian is None else error @ hessian).T, rank)
    weighted = error if hessian is None else error @ _factor(hessian)
    return torch.linalg.qr(weighted @ _eigenvectors(weighted.T @ weighted, rank)).Q


def _factor(hessian: Tensor) -> Tensor:
    """L with L Lᵀ = H; unlike Cholesky's this one is always there."""
    values, vectors = torch.linalg.eigh(hessian)
    return vectors * values.clamp_min(0).sqrt()


def _eigenvectors(matrix: Tensor, rank: int) -> Tensor:
    return torch.linalg.eigh(matrix).eigenvectors[:, -rank:].flip(1)
