"""Moving scales from a norm into the weights behind it: another model with the same outputs, which may be easier to round.

What a norm multiplies its channels by, the weights over its output may multiply their columns by as well. The norm is stored in
its own dtype, and what it lost is taken from there: so the weights get exactly that, and only their own rounding is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.norms import sole_readers
from deepseek_cli.tensors import DENSE_DTYPES, TensorRef, dense


def lightened(norm: TensorRef, scale: Tensor) -> Tensor:
    """The norm over `scale` [in], in its own dtype. A channel stays as it is where that dtype cannot hold the quotient."""
    before = dense(norm.read()).float()
    after = (before / scale).to(DENSE_DTYPES.get(norm.stored, torch.bfloat16))
    return torch.where(after.isfinite() & (after != 0), after, before.to(after.dtype))


def lost(norm: TensorRef, after: Tensor) -> Tensor:
    """What `after` lacks of the norm, float32 [in]: what the weights behind it are multiplied by; 1 where both are zero."""
    return torch.where(after == 0, 1.0, dense(norm.read()).float() / after.float())


def folded(handle: ModelHandle, made: Mapping[str, TensorRef]) -> ModelHandle:
    """`handle` with those norms that are `made` anew, and what these lost in the weights behind them: the same outputs."""
    tensors = dict(handle.tensors)
    for names, norm in sole_readers(handle.architecture, handle.config).items():
        before, after = handle.tensors[f"{norm}.weight"], made.get(f"{norm}.weight")
        if after is None:
            continue
        scale = lost(before, dense(after.read()))
        tensors[before.name] = replace(before, read=after.read)
        for name in names:
            tensors[f"{name}.weight"] = _multiplied(handle.tensors[f"{name}.weight"], scale)
    return replace(handle, tensors=tensors)


def _multiplied(ref: TensorRef, scale: Tensor) -> TensorRef:
    return replace(ref, read=lambda: dense(ref.read()).float() * scale)
