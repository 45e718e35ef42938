"""Tensors as they lie in files: group-wise quantized weights, corrected ones, and block formats that are carried as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli import blocks, e4m3
from deepseek_cli import vector_math as vector_math  # before any thread computes
from deepseek_cli.refs import TensorRef as TensorRef

CODES, BYTES = (step * torch.arange(24 // step, dtype=torch.int32) for step in (3, 8))  # where they begin in 24 bits
PIECE_VALUES = 1 << 22  # 16 MB in float32: an allocator gives these pages again, and asks the system for new ones for more


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """weight[o, i] = (code[o, i] - zero[o, g]) * scale[o, g] + offset[o, g], with g = i // group.

    With `permutation`, codes lie by group and not by input: code i is that of the weight's input permutation[i].

    `packed` holds the codes as every target wants them: along the input, least significant bits first,
    so that byte b of a 4-bit row holds input 2b in its low nibble and 2b + 1 in its high one.
    Without `zero` the zero point is the middle of the range, 2 ** (bits - 1); `offset` excludes `zero`.
    """

    packed: Tensor  # uint8 [out, in * bits / 8]
    scale: Tensor  # float32 [out, ceil(in / group)]
    bits: int  # 4 or 8; 3 until it is written, and when it is read again they lie in four
    group: int  # inputs per scale; the last group may be shorter
    zero: Tensor | None = None  # uint8 [out, ceil(in / group)]
    offset: Tensor | None = None  # float32 [out, ceil(in / group)]
    permutation: Tensor | None = None  # int64 [in]

    @property
    def irregular(self) -> str:
        """Why its groups are not runs of inputs with a whole zero point, which some formats alone have; "" where they are."""
        if self.offset is not None:
            return "its groups have a float offset"
        return "its groups do not follow the order of its inputs (act-order)" if self.permutation is not None else ""

    @property
    def shape(self) -> tuple[int, int]:
        return self.packed.shape[0], self.packed.shape[1] * 8 // self.bits

    @property
    def codes(self) -> Tensor:
        """uint8 [out, in]"""
        return unpack(self.packed, self.bits)

    def dequantize(self) -> Tensor:
        """float32 [out, in]"""
        values = dequantize(self.codes, self.scale, self.group, self.zero_point, self.offset)
        return values if self.permutation is None else values[:, self.permutation.argsort()]

    @property
    def zero_point(self) -> Tensor | int:
        if self.zero is not None:
            return self.zero
        return 0 if self.offset is not None else 1 << (self.bits - 1)

    def with_bits(self, bits: int) -> QuantizedTensor:
        """The same values in codes of 3 or 4 bits, which must hold them; where the zero point is the middle, codes move along."""
        if bits == self.bits:
            return self
        moved = 0 if self.zero is not None else (1 << (bits - 1)) - (1 << (self.bits - 1))
        codes = self.codes.to(torch.int16) + moved
        assert not codes.numel() or (codes.amin() >= 0 and codes.amax() < 1 << bits)
        return replace(self, packed=pack(codes.to(torch.uint8), bits), bits=bits)

    def rows(self, index: Tensor | slice) -> QuantizedTensor:
        """The same weight with only these output rows, in this order."""
        pick = lambda t: None if t is None else t[index]  # noqa: E731
        return replace(self, packed=self.packed[index], scale=self.scale[index], zero=pick(self.zero), offset=pick(self.offset))


@dataclass(frozen=True, slots=True)
class CorrectedTensor:
    """`rounded` + `up` @ `down`: a low-rank correction beside the codes."""

    rounded: QuantizedTensor  # [out, in]
    up: Tensor  # [out, rank], bfloat16 in folders
    down: Tensor  # [rank, in]

    @property
    def shape(self) -> tuple[int, int]:
        return self.rounded.shape

    def dequantize(self) -> Tensor:
        """float32 [out, in]; in float64 until then, so that a row's values do not hang on how many rows are computed at once."""
        return self.rounded.dequantize() + (self.up.double() @ self.down.double()).float()

    def rows(self, index: Tensor | slice) -> CorrectedTensor:
        return CorrectedTensor(self.rounded.rows(index), self.up[index], self.down)


@dataclass(frozen=True, slots=True)
class BlockTensor:
    """A weight in a format with its own blocks (Q4_K, Q6_K, Q5_0 …): carried, never reinterpreted."""

    format: str
    raw: Tensor  # uint8 [out, bytes per row]
    shape: tuple[int, int]

    def dequantize(self) -> Tensor:
        """float32 [out, in]"""
        return blocks.decode(self.format, self.raw, self.shape)

    def rows(self, index: Tensor | slice) -> BlockTensor:
        raw = self.raw[index]
        return BlockTensor(self.format, raw, (raw.shape[0], self.shape[1]))


@dataclass(frozen=True, slots=True)
class Fp8Tensor:
    """weight[o, i] = e4m3(raw[o, i]) * scale[o, i // block]; a last block may be shorter."""

    raw: Tensor  # uint8 [out, in]
    scale: Tensor  # float32 [out, ceil(in / block)]
    block: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.raw.shape[0], self.raw.shape[1]

    def dequantize(self) -> Tensor:
        """float32 [out, in]"""
        return e4m3.decode(self.raw, self.scale, self.block)

    def rows(self, index: Tensor | slice) -> Fp8Tensor:
        return Fp8Tensor(self.raw[index], self.scale[index], self.block)


Quantized = QuantizedTensor | CorrectedTensor | BlockTensor  # what `quantize` makes
Weight = Tensor | Quantized | Fp8Tensor


class HeldWeights:
    """Weights by name in one dtype, dequantized; each is read when it is first wanted, and kept until `forget`."""

    def __init__(self, refs: Mapping[str, TensorRef], dtype: torch.dtype = torch.float32) -> None:
        self.refs, self.dtype = refs, dtype
        self.held: dict[str, Tensor | None] = {}

    def __call__(self, name: str) -> Tensor | None:
        if name not in self.held:
            ref = self.refs.get(name)
            self.held[name] = None if ref is None else dense(ref.read()).to(self.dtype)
            if ref:
                ref.release()
        return self.held[name]

    def forget(self) -> None:
        self.held.clear()


DENSE_DTYPES = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def dense(weight: Weight) -> Tensor:
    """The weight's values; dequantized to float32 where it is quantized."""
    return weight if isinstance(weight, Tensor) else weight.dequantize()


def take_rows(weight: Weight, index: Tensor | slice) -> Weight:
    return weight[index] if isinstance(weight, Tensor) else weight.rows(index)


def rows_of(pieces: Sequence[Quantized]) -> Quantized:
    """The weight of which these are the rows, one after another; all of one format."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if isinstance(first, BlockTensor):
        rows = torch.cat([piece.raw for piece in pieces if isinstance(piece, BlockTensor)])
        return replace(first, raw=rows, shape=(len(rows), first.shape[1]))
    assert isinstance(first, QuantizedTensor)
    parts = zip(*((q.packed, q.scale, q.zero, q.offset) for q in pieces if isinstance(q, QuantizedTensor)), strict=True)
    packed, scale, zero, offset = (None if part[0] is None else torch.cat(part) for part in parts)
    assert packed is not None and scale is not None
    return replace(first, packed=packed, scale=scale, zero=zero, offset=offset)


def in_pieces(weight: Weight, most: int = PIECE_VALUES) -> Iterator[Weight]:
    """The weight, some rows at a time: at most `most` values, or one row."""
    rows = max(most // max(math.prod(weight.shape[1:]), 1), 1)
    for start in range(0, weight.shape[0], rows):
        yield take_rows(weight, slice(start, start + rows))


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes [..., n] to bytes [..., n * bits / 8], least significant bits first."""
    if bits == 8:
        return codes
    if bits == 3:
        words = (codes.unflatten(-1, (-1, 8)).int() << CODES).sum(-1, dtype=torch.int32, keepdim=True)
        return (words >> BYTES & 255).to(torch.uint8).flatten(-2)
    pairs = codes.flatten().view(torch.int16)  # many times as fast as picking every other code
    return (pairs | pairs >> 4).to(torch.uint8).view(*codes.shape[:-1], codes.shape[-1] // 2)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`."""
    if bits == 8:
        return packed
    if bits == 3:
        words = (packed.unflatten(-1, (-1, 3)).int() << BYTES).sum(-1, dtype=torch.int32, keepdim=True)
        return (words >> CODES & 7).to(torch.uint8).flatten(-2)
    pairs = packed.to(torch.int16).contiguous()
    return ((pairs | pairs << 4) & 0x0F0F).view(torch.uint8)


def dequantize(codes: Tensor, scale: Tensor, group: int, zero: Tensor | int, offset: Tensor | None = None) -> Tensor:
    """codes uint8 [out, in], scale [out, groups] to float32 [out, in]; a last group may be shorter than `group`."""
    length = codes.shape[-1]
    short = -length % group
    values = (F.pad(codes, (0, short)) if short else codes).float().unflatten(-1, (-1, group))
    values -= zero.float()[..., None] if isinstance(zero, Tensor) else float(zero)
    values *= scale[..., None]
    if offset is not None:
        values += offset[..., None]
    return values.flatten(-2)[..., :length]
