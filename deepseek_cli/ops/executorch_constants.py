"""A model's weights as constants of an ExecuTorch program: what the graph sees of each, and its bytes, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.formats.nbits import spread
from deepseek_cli.tensors import QuantizedTensor, TensorRef, dense, in_pieces

EMBEDDING = "model.embed_tokens"
TABLES = ("cos", "sin")  # of the rotation: what is small enough to be held


@dataclass(frozen=True, slots=True)
class Constant:
    """`shape` and `dtype` are those that an operator takes; `size` counts the bytes of the file, which `make` gives by rows."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    size: int
    ref: TensorRef
    make: Callable[[Any], Tensor]

    def pieces(self) -> Iterator[Tensor]:
        for piece in in_pieces(self.ref.read()):
            yield self.make(piece)
            self.ref.release()


def constants(refs: Mapping[str, TensorRef], tied: bool) -> tuple[dict[str, Constant], dict[str, tuple[int, int]]]:
    """By name: those of dense weights have their own, those of quantized ones the module's and a part's. And bits and group of
    quantized modules. An embedding that is tied stands there twice: its operator and that of products lay it out differently."""
    found: dict[str, Constant] = {}
    forms: dict[str, tuple[int, int]] = {}
    for name, ref in refs.items():
        if not ref.quantized:
            found[name] = Constant(ref.shape, torch.float32, 4 * ref.values, ref, lambda piece: dense(piece).float())
            continue
        stem = name.removesuffix(".weight")
        forms[stem] = bits, group = _form(ref)
        if stem == EMBEDDING:
            found |= _rows(stem, ref, bits, group)
        if stem != EMBEDDING or tied:
            found |= _product(stem, ref, bits, group)
    return found, forms


def _form(ref: TensorRef) -> tuple[int, int]:
    weight = ref.read()
    assert isinstance(weight, QuantizedTensor)
    ref.release()
    return weight.bits, common_group(weight)


def _rows(stem: str, ref: TensorRef, bits: int, group: int) -> dict[str, Constant]:
    """Of two int4 codes the operator wants the first in the high half of a byte."""
    rows, inputs = ref.shape
    width, groups = inputs * bits // 8, inputs // group
    dtype, make = (torch.uint8, _turned) if bits == 4 else (torch.int8, _signed)
    scale = Constant((rows, groups), torch.float32, 4 * rows * groups, ref, lambda piece: _scale(piece, group))
    return {f"{stem}.rows": Constant((rows, width), dtype, rows * width, ref, make), f"{stem}.rows_scale": scale}


def _product(stem: str, ref: TensorRef, bits: int, group: int) -> dict[str, Constant]:
    """The operator takes a code a byte, and XNNPACK int4 as we pack it, with scales in bfloat16."""
    rows, inputs = ref.shape
    each = (rows, inputs // group) if bits == 4 else (rows,)
    kept, zeros = (torch.bfloat16, torch.int32) if bits == 4 else (torch.float32, torch.int64)
    size = kept.itemsize * rows * (inputs // group)
    packed = (lambda piece: piece.packed) if bits == 4 else _signed
    return {
        f"{stem}.codes": Constant((rows, inputs), torch.int8, rows * inputs * bits // 8, ref, packed),
        f"{stem}.scale": Constant(each, torch.float32, size, ref, lambda piece: _scale(piece, group).to(kept)),
        f"{stem}.zero": Constant(each, zeros, 0, ref, lambda piece: torch.empty(0)),  # which XNNPACK has no place for
    }


def _turned(piece: QuantizedTensor) -> Tensor:
    return piece.packed << 4 | piece.packed >> 4


def _signed(piece: QuantizedTensor) -> Tensor:
    return piece.packed ^ 128


def _scale(piece: QuantizedTensor, group: int) -> Tensor:
    return spread(piece.scale, piece.group, group, piece.shape[1] // group)


def common_group(weight: QuantizedTensor) -> int:
    """The largest that divides the inputs and no border of the weight's own groups cuts, the last of which may be short."""
    inputs = weight.shape[1]
    return inputs if weight.group >= inputs else gcd(weight.group, inputs)
