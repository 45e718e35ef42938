"""What a model holds unquantized, in another float type: a handle that a target then takes as it takes any other."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from deepseek_cli.errors import ModelUnsupported, UsageError
from deepseek_cli.handle import ModelHandle
from deepseek_cli.tensors import DENSE_DTYPES, TensorRef

STORED = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # in config.json


def require_precision(target: str, known: tuple[str, ...], precision: str) -> None:
    """Raises UsageError for a float type that the target's bundles do not hold."""
    if not known:
        raise UsageError("What is dense in a bundle for {target} has one type.", hint="Leave --precision out.", target=target)
    if precision not in known:
        raise UsageError(
            "What is dense in a bundle for {target} can be {known}, not {precision}.",
            hint="Choose one of these, or leave --precision out.",
            target=target,
            known=", ".join(known),
            precision=precision,
        )


def in_precision(handle: ModelHandle, precision: str | None) -> ModelHandle:
    """The same model with everything dense in `precision`; itself where none is given."""
    if precision is None:
        return handle
    tensors = {name: ref if ref.quantized else _cast(ref, STORED[precision]) for name, ref in handle.tensors.items()}
    key = "dtype" if "dtype" in handle.raw_config else "torch_dtype"
    return replace(handle, tensors=tensors, raw_config={**handle.raw_config, key: NAMES[precision]})


def _cast(ref: TensorRef, stored: str) -> TensorRef:
    def read() -> Tensor:
        before = ref.read()
        assert isinstance(before, Tensor)
        values = before.to(DENSE_DTYPES[stored])
        if not torch.equal(values.isfinite(), before.isfinite()):
            raise ModelUnsupported("{tensor} holds values that float16 does not.", hint="Use --precision bf16.", tensor=ref.name)
        return values

    return replace(ref, stored=stored, size_bytes=DENSE_DTYPES[stored].itemsize * ref.values, read=read)
