"""Quantized weights as MLX holds them (formats.mlx), bit for bit: the same codes, and scale * code + bias for their values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepseek_cli.formats.nbits import spread
from deepseek_cli.formats.safetensors import Planned
from deepseek_cli.tensors import BlockTensor, CorrectedTensor, Fp8Tensor, QuantizedTensor, Weight

GROUPS = (128, 64, 32)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a weight is held, or all weights of a stack; `dtype` is that of scales and biases."""

    bits: int
    group: int
    dtype: torch.dtype

    @property
    def settings(self) -> dict[str, int | str]:
        """As config.json states it."""
        return {"group_size": self.group, "bits": self.bits, "mode": "affine"}


def layout_of(weights: Iterable[Weight], preferred: torch.dtype) -> Layout | str:
    """How MLX can hold `weights` as one, or the reason why it cannot. Of the dtypes that are exact it takes the
    `preferred` one, else the narrowest."""
    bits, group, dtypes = set[int](), GROUPS[0], sorted(DTYPES, key=lambda dtype: dtype != preferred)
    for weight in weights:
        if not isinstance(weight, QuantizedTensor) or (reason := unfit(weight)):
            return reason if isinstance(weight, QuantizedTensor) else foreign(weight)
        bits.add(weight.bits)
        group = min(group, group_of(weight))
        dtypes = [dtype for dtype in dtypes if holds(dtype, weight)]
    if len(bits) > 1:
        return "its experts do not share one width"
    return Layout(bits.pop(), group, dtypes[0]) if dtypes else "its scales are not finite"


def foreign(weight: Tensor | CorrectedTensor | BlockTensor | Fp8Tensor) -> str:
    if isinstance(weight, Tensor):
        return "not all of its experts are quantized"
    if isinstance(weight, CorrectedTensor):
        return "MLX has no place for its low-rank correction"
    kind = weight.format if isinstance(weight, BlockTensor) else "FP8"
    return f"the {kind} format has no counterpart in MLX"


def unfit(weight: QuantizedTensor) -> str:
    """Why MLX cannot hold `weight` as it is; "" when it can."""
    if weight.permutation is not None:
        return "its groups do not follow the order of its inputs (act-order)"
    if not group_of(weight):
        return f"its groups of {weight.group} are no multiple of {GROUPS[-1]}"
    if weight.offset is None and bool((weight.scale.view(torch.int32) & 0xFF).any()):
        return "its scales have more than 16 significant bits, so that a code times a scale is rounded"
    return ""


def group_of(weight: QuantizedTensor) -> int:
    """The largest group of MLX's whose border never cuts one of the weight's, or 0."""
    inputs = weight.shape[1]
    length = inputs if weight.group >= inputs else weight.group
    return next((group for group in GROUPS if length % group == 0 and inputs % group == 0), 0)


def biases(weight: QuantizedTensor) -> Tensor:
    """What MLX adds to scale * code: float32 [out, groups]"""
    return weight.offset if weight.offset is not None else -weight.scale * weight.zero_point


def holds(dtype: torch.dtype, weight: QuantizedTensor) -> bool:
    return all(torch.equal(values.to(dtype).float(), values) for values in (weight.scale, biases(weight)))


def planned_parts(stem: str, shape: tuple[int, ...], layout: Layout) -> list[Planned]:
    """What `parts_of` will give for a weight of `shape` [..., out, in]."""
    inputs = shape[-1]
    grouped = (*shape[:-1], inputs // layout.group)
    return [
        Planned(f"{stem}.weight", torch.uint32, (*shape[:-1], inputs * layout.bits // 32)),
        Planned(f"{stem}.scales", layout.dtype, grouped),
        Planned(f"{stem}.biases", layout.dtype, grouped),
    ]


def parts_of(weight: QuantizedTensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Codes uint32 [out, in * bits / 32], scales and biases [out, in / group]."""
    groups = weight.shape[1] // layout.group
    scales, added = (spread(t, weight.group, layout.group, groups).to(layout.dtype) for t in (weight.scale, biases(weight)))
    return weight.packed.contiguous().view(torch.uint32), scales, added
