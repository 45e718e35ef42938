"""What readers of quantized checkpoints share: the parts of a weight checked, and joined into one reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt, ModelUnsupported
from deepseek_cli.tensors import DENSE_DTYPES, QuantizedTensor, TensorRef, Weight, pack, unpack

BITS = (4, 8)
INDICES = ("i32", "i64")


def joined(name: str, shape: tuple[int, ...], stored: str, parts: Sequence[TensorRef], read: Callable[[], Weight]) -> TensorRef:
    """One reference to a weight that lies in several tensors."""

    def release() -> None:
        for ref in parts:
            ref.release()

    return TensorRef(name, shape, stored, sum(ref.size_bytes for ref in parts), read, release)


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

    `order`, from `input_order`, brings codes that lie by input into groups.
    """
    if zero is not None and bool((zero == 1 << (bits - 1)).all()):
        zero = None
    if order is not None:
        packed = pack(unpack(packed, bits)[:, order].contiguous(), bits)
    return QuantizedTensor(packed, scale.float().contiguous(), bits, group, zero, permutation=order)


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


def check_stored(file: Path, known: Sequence[str], *parts: TensorRef) -> None:
    """Raises ModelCorrupt for a part of another dtype, or with nothing in it."""
    for ref in parts:
        if ref.stored not in known or not ref.shape or 0 in ref.shape:
            raise corrupt(
                "{file}: tensor {tensor} of dtype {dtype} and shape {shape} is no part of a quantized weight.",
                file,
                tensor=ref.name,
                dtype=ref.stored,
                shape=list(ref.shape),
            )


def check_scales(file: Path, *parts: TensorRef) -> None:
    check_stored(file, tuple(DENSE_DTYPES), *parts)


def whole_number(settings: Mapping[str, Any], field: str, file: Path, default: int = 0) -> int:
    """A number of bits, or a group size: 0 for a whole row, which stands there as 0, -1 or null."""
    found = settings.get(field, default)
    if found is None or (type(found) is int and found in (0, -1)):
        return 0
    if type(found) is not int or not 0 < found < 1 << 31:
        raise wrong(file, field, found, "a positive integer")
    return found


def supported(file: Path, field: str, found: object, known: Sequence[object]) -> None:
    """Raises ModelUnsupported for a setting that is not one of those `known`."""
    if found not in known:
        raise ModelUnsupported(
            "{file}: {field} {value} is not supported.",
            hint="Supported are {known}.",
            file=file,
            field=f"quantization_config.{field}",
            value=str(found)[:60],
            known=", ".join(str(value) for value in known if value is not None) or "none",
        )


def wrong(file: Path, field: str, found: object, wanted: str) -> ModelCorrupt:
    message, field = "{file}: {field} must be {wanted}, not {value}.", f"quantization_config.{field}"
    return corrupt(message, file, field=field, wanted=wanted, value=repr(found)[:60])


def lacking(file: Path, tensor: str, parts: Sequence[str]) -> ModelCorrupt:
    message = "{file}: tensor {tensor} lacks its other parts ({parts})."
    return corrupt(message, file, tensor=tensor, parts=", ".join(parts))


def unfitting(file: Path, tensor: str) -> ModelCorrupt:
    return corrupt("{file}: the parts of tensor {tensor} do not fit each other.", file, tensor=tensor)


def corrupt(message: str, file: Path, **facts: object) -> ModelCorrupt:
    return ModelCorrupt(message, hint="Pull the model again, or check where it comes from.", file=file, **facts)
