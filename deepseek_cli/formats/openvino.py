"""Quantized weights as OpenVINO's constants hold them, bit for bit, and back again.

Codes lie along the input, the first of two in the low nibble, which is how ours are packed. Symmetric ones are signed there:
the same bits with the highest one flipped. A weight in groups is a constant [out, groups, group].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.formats.nbits import BLOCKS, Coded, spread
from deepseek_cli.tensors import BlockTensor, CorrectedTensor, Fp8Tensor, QuantizedTensor, TensorRef, Weight, dense, pack, unpack

SIGN_BITS = {4: 0x88, 8: 0x80}  # of each code in a byte
FALLBACK = torch.float16


@dataclass(frozen=True, slots=True)
class Held:
    """The constants of one weight; a dense one has only `codes`, its values. `reason` says why a quantized one is dense."""

    codes: Tensor
    dtype: str  # of OpenVINO; "" for that of `codes`
    shape: tuple[int, ...]
    grouped: tuple[int, ...]  # `shape`, or with its inputs in groups
    scale: Tensor | None = None  # [out, groups, 1], or [out, 1] where there is one group
    zero: Tensor | None = None  # as `dtype` has it, packed
    reason: str = ""


def hold(ref: TensorRef) -> Held:
    weight = ref.read()
    found = as_held(weight)
    if isinstance(found, Tensor):
        return Held(found, "", ref.shape, ref.shape, reason="" if isinstance(weight, Tensor) else unfit(weight))
    outputs, inputs = found.shape
    group = group_of(found)
    groups = inputs // group
    column, grouped = ((outputs, 1), found.shape) if groups == 1 else ((outputs, groups, 1), (outputs, groups, group))
    scale = spread(found.scale, found.group, group, groups).view(column)
    scale = scale.half() if torch.equal(scale.half().float(), scale) else scale
    if found.zero is None:
        return Held(found.packed ^ SIGN_BITS[found.bits], f"i{found.bits}", found.shape, grouped, scale)
    zero = pack_flat(spread(found.zero, found.group, group, groups), found.bits)
    return Held(found.packed, f"u{found.bits}", found.shape, grouped, scale, zero)


def as_held(weight: Weight) -> Tensor | QuantizedTensor:
    """The weight itself, or its values in FALLBACK where its codes cannot be held."""
    if isinstance(weight, Tensor):
        return weight.float() if weight.dtype == torch.float64 else weight
    if unfit(weight):
        return dense(weight).to(FALLBACK)
    assert isinstance(weight, QuantizedTensor)
    return weight


def restore(codes: Tensor, dtype: str, shape: tuple[int, ...], scale: Tensor, zero: Tensor | None) -> QuantizedTensor:
    """The inverse: bytes of the constants, and the shape of that which holds the codes."""
    bits, outputs, inputs = int(dtype[1:]), shape[0], math.prod(shape[1:])
    packed, scale = codes.reshape(outputs, -1), scale.float().reshape(outputs, -1)
    if dtype.startswith("i"):
        return QuantizedTensor(packed ^ SIGN_BITS[bits], scale, bits, inputs // scale.shape[1])
    assert zero is not None
    flat = unpack(zero.reshape(-1), bits)[: scale.numel()]
    return QuantizedTensor(packed, scale, bits, inputs // scale.shape[1], flat.view_as(scale))


def unfit(weight: Coded) -> str:
    """Why OpenVINO's constants cannot hold `weight` as it is; "" when they can."""
    if isinstance(weight, Fp8Tensor):
        return "FP8 with scales along the inputs has no counterpart in OpenVINO's plugin for CPUs"
    if isinstance(weight, BlockTensor):
        return f"the {weight.format} format has no counterpart in OpenVINO"
    if isinstance(weight, CorrectedTensor):
        return "its low-rank correction has no place beside OpenVINO's constants"
    if weight.irregular:
        return weight.irregular
    if not group_of(weight):
        return f"groups of {weight.group} are no multiple of {BLOCKS[-1]}"
    return ""


def group_of(weight: QuantizedTensor) -> int:
    """The size of equal groups none of which lies in two of the weight's, or 0."""
    inputs = weight.shape[1]
    group = math.gcd(weight.group, inputs)
    return inputs if weight.group >= inputs else group if group % BLOCKS[-1] == 0 else 0


def pack_flat(codes: Tensor, bits: int) -> Tensor:
    """Codes one after another, whatever their rows; a last byte may be half full."""
    flat = codes.reshape(-1)
    return pack(F.pad(flat, (0, flat.numel() % 2)), bits) if bits == 4 else flat
