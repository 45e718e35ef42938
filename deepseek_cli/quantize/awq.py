"""AWQ (arXiv 2306.00978): inputs that are large are made smaller, and their weights larger, before the weights are rounded.

Each input channel has a scale. Weights are multiplied by it, and the norm before them is divided by it, so that it costs nothing
when the model runs. It is done where a norm is all there is before the weights: at q, k, v (or their latents) and at gate and up.
The paper also moves scales from o_proj into the rows of v_proj, and from down_proj into those of up_proj; these rows are rounded
by then, and their scales would leave the portable grid, so here o_proj and down_proj are rounded as `imatrix` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepseek_cli.quantize import search
from deepseek_cli.quantize.algorithms import Algorithm
from deepseek_cli.quantize.statistics import Statistics
from deepseek_cli.schemes import Scheme

STEPS = 20  # of the exponent, from 0 to 1
SAMPLE = 1 << 19  # values of the weight: they say which exponent is best as well as all do


def fold(weight: Tensor, scheme: Scheme, statistics: Statistics) -> Tensor:
    """The scale of each input, float32 [in]: s = E[x²]^(α/2), with the α that costs least (equations 4 and 5).

    The paper has E|x| for the root mean square.
    """
    rows = weight[:: -(-weight.numel() // SAMPLE)]
    candidates = [_scale(statistics.importance, step / STEPS) for step in range(STEPS)]
    costs = [_cost(rows, scale, scheme, statistics) for scale in candidates]
    return candidates[costs.index(min(costs))]


def _scale(importance: Tensor, exponent: float) -> Tensor:
    """Around 1: its largest times its smallest value is 1."""
    scale = (importance / importance.mean().clamp_min(1e-30)).clamp_min(1e-6) ** (exponent / 2)
    return scale / (scale.max() * scale.min()).sqrt()


def _cost(weight: Tensor, scale: Tensor, scheme: Scheme, statistics: Statistics) -> float:
    """‖Q(W·diag(s))·diag(s)⁻¹·X − W·X‖² for each token."""
    rounded = search.quantize(weight * scale, scheme, statistics.over(scale)).dequantize() / scale
    error = rounded - weight
    return float(torch.linalg.vecdot(error @ statistics.hessian, error).sum())


AWQ = Algorithm("awq", search.quantize, "inputs", fold)
