"""Zeros that a weight was pruned to: rounding leaves them zero."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from deepseek_cli.tensors import Quantized, QuantizedTensor, pack

SPARSE = 0.1  # of a weight's values are exactly zero; in others hardly any is


def zeros_of(weight: Tensor) -> Tensor | None:
    """Where a pruned `weight` is zero; None for any other, whose zeros mean nothing."""
    zeros = weight == 0
    return zeros if float(zeros.float().mean()) >= SPARSE else None


def with_zeros(quantized: Quantized, zeros: Tensor) -> Quantized:
    """With the code of zero in these places [out, in]. Blocks of ggml's formats, which may have none, stay as they are."""
    if not isinstance(quantized, QuantizedTensor):
        return quantized
    zero = quantized.zero
    middle = 1 << (quantized.bits - 1) if zero is None else zero.repeat_interleave(quantized.group, 1)[:, : zeros.shape[1]]
    codes = quantized.codes.where(~zeros, middle)
    return replace(quantized, packed=pack(codes.to(quantized.codes.dtype).contiguous(), quantized.bits))
