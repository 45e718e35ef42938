"""Weights in groups, put together from parts: the codes, scales and zero points of the formats that have them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from deepseek_cli.formats.parts import corrupt
from deepseek_cli.refs import TensorRef
from deepseek_cli.tensors import QuantizedTensor, pack, unpack


def value(ref: TensorRef) -> Tensor:
    found = ref.read()
    assert isinstance(found, Tensor)  # parts are never quantized themselves
    return found


def words(ref: TensorRef) -> Tensor:
    """The bytes of whole words, as unsigned codes want them: [..., words * word size]"""
    return value(ref).contiguous().view(torch.uint8)


def grouped(
    packed: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, order: Tensor | None = None
) -> QuantizedTensor:
    """A weight in groups. Zero points that all lie in the middle are left out: operators are faster without them.
    Codes of 3 bits are given 4, which every target has.

    `order`, from `input_order`, brings codes that lie by input into groups.
    """
    if zero is not None and bool((zero == 1 << (bits - 1)).all()):
        zero = None
    if order is not None:
        packed = pack(unpack(packed, bits)[:, order].contiguous(), bits)
    found = QuantizedTensor(packed, scale.float().contiguous(), bits, group, zero, permutation=order)
    return found.with_bits(4) if bits == 3 else found


def affine(packed: Tensor, scale: Tensor, offset: Tensor, bits: int, group: int) -> QuantizedTensor:
    """code * scale + offset; with integer zero points for the offsets where all values stay the same, bit for bit."""
    zero = torch.where(scale == 0, 0, (-offset / scale).round())
    exact = bool((scale.view(torch.int32) & 0xFF == 0).all())  # 16 significant bits: times a code they still fit float32
    if exact and bool(((zero >= 0) & (zero < 1 << bits)).all()) and torch.equal(zero * scale, -offset):
        return grouped(packed, scale, zero.to(torch.uint8), bits, group)
    return QuantizedTensor(packed, scale, bits, group, offset=offset)


def input_order(ref: TensorRef | None, group: int, file: Path) -> Tensor | None:
    """The inputs in the order of their groups, int64 [in], from the group of each input; None where they lie in it already.

    Raises ModelCorrupt where the groups are not of one size.
    """
    if ref is None:
        return None
    groups = value(ref).long()
    if bool((groups == -1).all()):  # what compressed-tensors writes for none
        return None
    straight = torch.arange(len(groups)) // group
    if torch.equal(groups, straight):
        return None
    order = groups.argsort(stable=True)
    if not torch.equal(groups[order], straight):
        raise corrupt(
            "{file}: tensor {tensor} does not put its inputs into groups of {group}.", file, tensor=ref.name, group=group
        )
    return order
