"""Decoders of ggml's block formats, which carry their own scales: rows of bytes to float32.

Layouts after ggml/src/ggml-common.h: `d` and `m` are float16, codes are packed as each decoder says. K-formats hold
256 values in eight sub-blocks of 32 whose 6-bit scales and minima are packed in twelve bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Block:
    values: int
    bytes: int
    decode: Callable[[Tensor], Tensor]  # uint8 [blocks, bytes] to float32 [blocks, values]


def decode(format: str, raw: Tensor, shape: tuple[int, int]) -> Tensor:
    """raw uint8 [out, bytes per row] in the named format to float32 [out, in]."""
    block = BLOCKS[format]
    return block.decode(raw.contiguous().view(-1, block.bytes)).view(shape)


def half(raw: Tensor, start: int) -> Tensor:
    """The float16 at byte `start` of each block, float32 [blocks, 1]."""
    return raw[:, start : start + 2].contiguous().view(torch.float16).float()


def nibbles(packed: Tensor) -> Tensor:
    """uint8 [.., n] to [.., 2n]: all low nibbles, then all high ones."""
    return torch.cat((packed & 15, packed >> 4), dim=-1)


def fifth_bits(raw: Tensor) -> Tensor:
    """Four bytes of bits [blocks, 4] to [blocks, 32], each already at its place, 16."""
    return ((raw.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(1) << 4


def q4_0(raw: Tensor) -> Tensor:
    return half(raw, 0) * (nibbles(raw[:, 2:]).float() - 8)


def q4_1(raw: Tensor) -> Tensor:
    return half(raw, 0) * nibbles(raw[:, 4:]).float() + half(raw, 2)


def q5_0(raw: Tensor) -> Tensor:
    return half(raw, 0) * ((nibbles(raw[:, 6:]) | fifth_bits(raw[:, 2:6])).float() - 16)


def q5_1(raw: Tensor) -> Tensor:
    return half(raw, 0) * (nibbles(raw[:, 8:]) | fifth_bits(raw[:, 4:8])).float() + half(raw, 2)


def q8_0(raw: Tensor) -> Tensor:
    return half(raw, 0) * raw[:, 2:].view(torch.int8).float()


def six_bits(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Twelve bytes [blocks, 12] to scales and minima, [blocks, 8] each."""
    a, b, c = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    scale = torch.cat((a & 63, (c & 15) | (a >> 6) << 4), dim=1)
    minimum = torch.cat((b & 63, (c >> 4) | (b >> 6) << 4), dim=1)
    return scale.float(), minimum.float()


def sub_blocks(raw: Tensor, codes: Tensor) -> Tensor:
    """codes [blocks, 8, 32] with the block's header: d, dmin, packed scales."""
    scale, minimum = six_bits(raw[:, 4:16])
    return ((half(raw, 0) * scale).unsqueeze(-1) * codes.float() - (half(raw, 2) * minimum).unsqueeze(-1)).flatten(1)


def q4_k(raw: Tensor) -> Tensor:
    return sub_blocks(raw, nibbles(raw[:, 16:].unflatten(1, (4, 32))).unflatten(-1, (2, 32)).flatten(1, 2))


def q5_k(raw: Tensor) -> Tensor:
    low = nibbles(raw[:, 48:].unflatten(1, (4, 32))).unflatten(-1, (2, 32)).flatten(1, 2)
    high = (raw[:, None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None]) & 1  # bit j belongs to sub-block j
    return sub_blocks(raw, low | high << 4)


def q6_k(raw: Tensor) -> Tensor:
    low = nibbles(raw[:, :128].unflatten(1, (2, 64))).unflatten(-1, (4, 32))
    high = (raw[:, 128:192].unflatten(1, (2, 1, 32)) >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]) & 3
    codes = (low | high << 4).float() - 32  # [blocks, 2, 4, 32]
    scale = raw[:, 192:208].view(torch.int8).float()
    return (half(raw, 208) * scale).unsqueeze(-1).mul(codes.reshape(-1, 16, 16)).flatten(1)


BLOCKS = {
    "q4_0": Block(32, 18, q4_0),
    "q4_1": Block(32, 20, q4_1),
    "q5_0": Block(32, 22, q5_0),
    "q5_1": Block(32, 24, q5_1),
    "q8_0": Block(32, 34, q8_0),
    "q4_k": Block(256, 144, q4_k),
    "q5_k": Block(256, 176, q5_k),
    "q6_k": Block(256, 210, q6_k),
}
