"""Round to nearest: each group's scale from its largest magnitude, no data needed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deepseek_cli.quantize.grid import round_to_grid, scales_and_zeros
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import QuantizedTensor, Weight, dense, pack, take_rows

CHUNK_VALUES = 1 << 18  # a chunk stays in cache between the passes over it


def quantize(
    weight: Weight, scheme: Scheme, statistics: object = None, passed: Callable[[], None] = lambda: None
) -> QuantizedTensor:
    """A weight [out, in] in `scheme`; one that is quantized already is dequantized. `passed` is called between chunks of rows.

    Raises ValueError when the weight holds a NaN or an infinity.
    """
    out, inputs = weight.shape
    group = scheme.group_of(inputs)
    groups = -(-inputs // group)
    packed = torch.empty(out, inputs * scheme.bits // 8, dtype=torch.uint8)
    scale = torch.empty(out, groups)
    zero = None if scheme.symmetric else torch.empty(out, groups, dtype=torch.uint8)
    step = max(CHUNK_VALUES // inputs, 1)
    for start in range(0, out, step):
        rows = slice(start, min(start + step, out))
        block = in_groups(dense(take_rows(weight, rows)).float(), group)
        scale[rows], zeros = scales_and_zeros(block, scheme)
        codes = round_to_grid(block, scale[rows], zeros, scheme.bits)
        packed[rows] = pack(codes.flatten(1)[:, :inputs], scheme.bits)
        if zero is not None and zeros is not None:
            zero[rows] = zeros
        passed()
    if not torch.isfinite(scale).all():
        raise ValueError("not finite")
    return QuantizedTensor(packed, scale, scheme.bits, group, zero)


def in_groups(w: Tensor, group: int) -> Tensor:
    """[rows, in] to [rows, groups, group]; a short last group is filled with zeros, which no scale depends on."""
    short = -w.shape[1] % group
    return (torch.nn.functional.pad(w, (0, short)) if short else w).unflatten(1, (-1, group))
