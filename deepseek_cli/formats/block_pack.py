"""Codes and scales in ggml's block formats, after ggml/src/ggml-common.h: what `blocks` decodes.

Blocks are the first dimension: codes uint8 [n, values], scales of sub-blocks [n, sub-blocks], factors float32 [n, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack_q4_k(codes: Tensor, scale: Tensor, minimum: Tensor, factor: Tensor, least: Tensor) -> Tensor:
    """weight = factor * scale * code - least * minimum, with six bits for `scale` and `minimum` [n, 8], to uint8 [n, 144]"""
    first, last = slice(0, 4), slice(4, 8)
    scales = (
        scale[:, first] | scale[:, last] >> 4 << 6,
        minimum[:, first] | minimum[:, last] >> 4 << 6,
        scale[:, last] & 15 | (minimum[:, last] & 15) << 4,
    )
    pairs = codes.view(-1, 4, 2, 32)  # sub-blocks
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).flatten(1)
    return torch.cat((half(factor), half(least), *scales, nibbles), dim=1)


def pack_q5_0(codes: Tensor, factor: Tensor) -> Tensor:
    """weight = factor * (code - 16), to uint8 [n, 22]"""
    high = (codes >> 4).view(-1, 4, 8) << torch.arange(8, dtype=torch.uint8)
    return torch.cat((half(factor), high.sum(-1, dtype=torch.uint8), codes[:, :16] & 15 | codes[:, 16:] << 4), dim=1)


def pack_q6_k(codes: Tensor, scale: Tensor, factor: Tensor) -> Tensor:
    """weight = factor * scale * (code - 32), `scale` int8 [n, 16], to uint8 [n, 210]"""
    a, b, c, d = codes.view(-1, 2, 4, 32).unbind(2)
    low = torch.cat((a & 15 | c << 4, b & 15 | d << 4), dim=2)
    high = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6
    return torch.cat((low.flatten(1), high.flatten(1), scale.view(torch.uint8), half(factor)), dim=1)


def pack_q8_0(codes: Tensor, factor: Tensor) -> Tensor:
    """weight = factor * (code - 128), to uint8 [n, 34]"""
    return torch.cat((half(factor), codes ^ 0x80), dim=1)


def half(factor: Tensor) -> Tensor:
    """float32 [n, 1] that float16 holds, to uint8 [n, 2]"""
    return factor.half().view(torch.uint8)
