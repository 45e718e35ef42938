"""Weights in ggml's block formats, decoded to float32. The layouts are those of ggml/src/ggml-common.h (block_q4_K and so on).

A decoder maps bytes [n, bytes of a block] to values [n, values of a block]; it rounds as ggml does, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_VALUES = 1 << 20  # decoded at a time, so that temporaries stay small beside a large weight


@dataclass(frozen=True, slots=True)
class Block:
    """`values` weights lie in `bytes` bytes."""

    values: int
    bytes: int
    decode: Callable[[Tensor], Tensor]  # uint8 [n, bytes] to float32 [n, values]


def decode(format: str, raw: Tensor, shape: tuple[int, int]) -> Tensor:
    """A weight in one of BLOCKS: raw uint8 [out, bytes per row] to float32 [out, in]."""
    block = BLOCKS[format]
    out, inputs = shape
    values = torch.empty(out, inputs)
    rows = max(CHUNK_VALUES // max(inputs, 1), 1)
    for first in range(0, out, rows):
        part = raw[first : first + rows].reshape(-1, block.bytes)
        values[first : first + rows] = block.decode(part).view(-1, inputs)
    return values


def float16(raw: Tensor) -> Tensor:
    """uint8 [n, 2] to float32 [n, 1]"""
    return raw.contiguous().view(torch.float16).float()


def nibbles(raw: Tensor) -> Tensor:
    """uint8 [.., n] to [.., 2n]: all low nibbles, then all high ones."""
    return torch.cat((raw & 15, raw >> 4), dim=-1)


def bits(raw: Tensor) -> Tensor:
    """uint8 [n, 4] to [n, 32], least significant first"""
    return (raw.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8) & 1).flatten(1)


def decode_q4_0(raw: Tensor) -> Tensor:
    return (nibbles(raw[:, 2:]).float() - 8) * float16(raw[:, :2])


def decode_q4_1(raw: Tensor) -> Tensor:
    return nibbles(raw[:, 4:]) * float16(raw[:, :2]) + float16(raw[:, 2:4])


def decode_q5_0(raw: Tensor) -> Tensor:
    codes = nibbles(raw[:, 6:]) | bits(raw[:, 2:6]) << 4
    return (codes.float() - 16) * float16(raw[:, :2])


def decode_q5_1(raw: Tensor) -> Tensor:
    codes = nibbles(raw[:, 8:]) | bits(raw[:, 4:8]) << 4
    return codes * float16(raw[:, :2]) + float16(raw[:, 2:4])


def decode_q8_0(raw: Tensor) -> Tensor:
    return raw[:, 2:].contiguous().view(torch.int8) * float16(raw[:, :2])


def decode_q4_k(raw: Tensor) -> Tensor:
    codes = nibbles(raw[:, 16:].reshape(-1, 4, 32)).view(-1, 8, 32)
    scale, minimum = k_scales(raw)
    return (codes * scale - minimum).flatten(1)


def decode_q5_k(raw: Tensor) -> Tensor:
    codes = nibbles(raw[:, 48:].reshape(-1, 4, 32)).view(-1, 8, 32)
    high = raw[:, 16:48].unsqueeze(1) >> torch.arange(8, dtype=torch.uint8).view(8, 1) & 1  # bit j of a byte is sub-block j's
    scale, minimum = k_scales(raw)
    return ((codes | high << 4) * scale - minimum).flatten(1)


def decode_q6_k(raw: Tensor) -> Tensor:
    low = nibbles(raw[:, :128].reshape(-1, 2, 64)).view(-1, 2, 4, 32)
    high = raw[:, 128:192].reshape(-1, 2, 1, 32) >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8).view(4, 1) & 3
    codes = (low | high << 4).float() - 32
    scale = float16(raw[:, 208:]) * raw[:, 192:208].contiguous().view(torch.int8)  # [n, 16]
    return (codes.view(-1, 16, 16) * scale.unsqueeze(-1)).flatten(1)


def k_scales(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minimums of the eight sub-blocks of Q4_K and Q5_K, float32 [n, 8, 1] each, six bits before their f16 factors."""
    a, b, c = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scale = torch.cat((a & 63, c & 15 | a >> 6 << 4), dim=1)
    minimum = torch.cat((b & 63, c >> 4 | b >> 6 << 4), dim=1)
    return (float16(raw[:, :2]) * scale).unsqueeze(-1), (float16(raw[:, 2:4]) * minimum).unsqueeze(-1)


BLOCKS = {
    "q4_0": Block(values=32, bytes=18, decode=decode_q4_0),
    "q4_1": Block(values=32, bytes=20, decode=decode_q4_1),
    "q5_0": Block(values=32, bytes=22, decode=decode_q5_0),
    "q5_1": Block(values=32, bytes=24, decode=decode_q5_1),
    "q8_0": Block(values=32, bytes=34, decode=decode_q8_0),
    "q4_k": Block(values=256, bytes=144, decode=decode_q4_k),
    "q5_k": Block(values=256, bytes=176, decode=decode_q5_k),
    "q6_k": Block(values=256, bytes=210, decode=decode_q6_k),
}
