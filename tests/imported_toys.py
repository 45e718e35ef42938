"""Toys as other tools would have quantized them, packed one code at a time as the formats are described.

What those tools' own libraries pack stands in tests/formats/golden. Each function here rewrites a toy's linears and gives back
the values that it holds then.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.fp8_toys import change

Packed = tuple[dict[str, np.ndarray], np.ndarray]  # the parts of a linear, and its values [out, in]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output that each nibble of a word holds
GROUP = 32


def rewrite(folder: Path, pack: Callable[[np.ndarray, np.random.Generator], Packed], **config: Any) -> dict[str, Tensor]:
    draw, tensors, values = np.random.default_rng(0), {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if tensor.ndim != 2 or "embed" in name or "lm_head" in name:
            tensors[name] = values[name] = tensor
            continue
        parts, exact = pack(tensor.float().numpy(), draw)
        tensors |= {f"{name.removesuffix('.weight')}.{part}": torch.from_numpy(t) for part, t in parts.items()}
        values[name] = torch.from_numpy(exact)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    change(folder, **config)
    return values


def to_gptq(folder: Path, bits: int = 4, *, sym: bool = False, act_order: bool = False) -> dict[str, Tensor]:
    """Version 1: zero points stored less one."""

    def pack(weight: np.ndarray, draw: np.random.Generator) -> Packed:
        inputs = weight.shape[1]
        index = np.arange(inputs) // GROUP
        if act_order:
            draw.shuffle(index)
        codes, scale, zero = quantize(weight, index, bits, sym)
        parts = {
            "qweight": words(codes.T, bits, axis=0),
            "qzeros": words((zero.T - 1) % (1 << bits), bits, axis=1),
            "scales": scale.T.astype(np.float16),
            "g_idx": index.astype(np.int32),
        }
        return parts, (codes - zero[:, index]) * scale[:, index]

    settings = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": sym, "desc_act": act_order, "lm_head": False}
    return rewrite(folder, pack, quantization_config=settings)


def to_awq(folder: Path) -> dict[str, Tensor]:
    def pack(weight: np.ndarray, _: np.random.Generator) -> Packed:
        index = np.arange(weight.shape[1]) // GROUP
        codes, scale, zero = quantize(weight, index, 4, sym=False)
        order = (np.arange(len(weight)).reshape(-1, 8)[:, AWQ_ORDER]).ravel()
        parts = {
            "qweight": words(codes[order].T, 4, axis=1),
            "qzeros": words(zero[order].T, 4, axis=1),
            "scales": scale.T.astype(np.float16),
        }
        return parts, (codes - zero[:, index]) * scale[:, index]

    settings = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": GROUP, "zero_point": True}
    return rewrite(folder, pack, quantization_config=settings | {"modules_to_not_convert": ["lm_head"]})


def to_mlx(folder: Path, bits: int = 4, *, whole: bool = True) -> dict[str, Tensor]:
    """With `whole`, biases are integer multiples of their scales."""

    def pack(weight: np.ndarray, _: np.random.Generator) -> Packed:
        index = np.arange(weight.shape[1]) // GROUP
        codes, scale, zero = quantize(weight, index, bits, sym=False)
        bias = (-zero * scale if whole else -(zero + 0.3) * scale).astype(np.float32)
        bias = bias if whole else bias.astype(np.float16).astype(np.float32)
        parts = {"weight": words(codes, bits, axis=1).view(np.uint32), "scales": scale, "biases": bias}
        return parts, codes * scale[:, index] + bias[:, index]

    settings = {"group_size": GROUP, "bits": bits}
    return rewrite(folder, pack, quantization=settings, quantization_config=settings)


def quantize(weight: np.ndarray, index: np.ndarray, bits: int, sym: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [out, in], scales that float16 holds and zero points [out, groups], all float32."""
    top = (1 << bits) - 1
    blocks = np.stack([weight[:, index == g] for g in range(index.max() + 1)], axis=1)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    span = 2 * np.maximum(-low, high) if sym else high - low
    scale = (span / top).astype(np.float16).astype(np.float32)
    zero = np.full_like(scale, 1 << (bits - 1)) if sym else np.clip(np.round(-low / scale), 1, top)
    codes = np.clip(np.round(weight / scale[:, index]) + zero[:, index], 0, top)
    return codes.astype(np.float32), scale, zero.astype(np.float32)


def words(codes: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """int32, 32 / bits codes in each along `axis`, the first in its lowest bits."""
    codes, count = np.moveaxis(codes.astype(np.int64), axis, 0), 32 // bits
    packed = np.zeros((len(codes) // count, *codes.shape[1:]), np.int64)
    for i, code in enumerate(codes):
        packed[i // count] |= code << (i % count * bits)
    return np.ascontiguousarray(np.moveaxis(packed.astype(np.uint32).view(np.int32), 0, axis))
