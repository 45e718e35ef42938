"""MLX folders with affine quantization, as mlx-lm writes them (github.com/ml-explore/mlx-lm; mlx.core.quantize): read.

`X.weight` uint32 [out, in * bits / 32], codes along the input, least significant bits first; `X.scales` and `X.biases`
[out, groups]: a value is code * scale + bias. The experts of a layer are stacked as `switch_mlp`. DeepSeek-V3's kv_b_proj
lies in two parts by heads: `embed_q` [heads, rank, nope], which is its keys transposed, and `unembed_out` [heads, value, rank].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats.grouped import affine, value, words
from deepseek_cli.formats.parts import (
    BITS,
    check_scales,
    check_stored,
    corrupt,
    joined,
    lacking,
    supported,
    unfitting,
    whole_number,
)
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import DENSE_DTYPES, QuantizedTensor, TensorRef

PARTS = ("weight", "scales", "biases")
KEYS, VALUES = "embed_q", "unembed_out"  # the parts of kv_b_proj


def assemble(tensors: Mapping[str, TensorRef], settings: Mapping[str, Any], file: Path) -> dict[str, TensorRef]:
    """The same tensors with the parts of each weight joined into one reference called `X.weight`, experts one by one."""
    tensors, joint = _unstacked(tensors, file), dict[str, TensorRef]()
    for name, ref in tensors.items():
        stem, _, part = name.rpartition(".")
        if stem.endswith((f".{KEYS}", f".{VALUES}")):
            whole = f"{stem.rpartition('.')[0]}.kv_b_proj.weight"
            joint[whole] = joint.get(whole) or _expansion(whole, tensors, file)
        elif part == "weight" and (f"{stem}.scales" in tensors or ref.stored == "u32"):
            joint[name] = _join(stem, tensors, settings, file)
        elif part not in PARTS[1:] or f"{stem}.weight" not in tensors:
            joint[name] = ref
    return joint


def _unstacked(tensors: Mapping[str, TensorRef], file: Path) -> dict[str, TensorRef]:
    found = {}
    for name, ref in tensors.items():
        if ".switch_mlp." not in name:
            found[name] = ref
            continue
        if len(ref.shape) != 3 or 0 in ref.shape:
            raise corrupt(
                "{file}: tensor {tensor} of shape {shape} is no stack of experts.", file, tensor=name, shape=list(ref.shape)
            )
        for i in range(ref.shape[0]):
            expert = name.replace(".switch_mlp.", f".experts.{i}.")
            read = lambda ref=ref, i=i: value(ref)[i]  # noqa: E731
            found[expert] = replace(ref, name=expert, shape=ref.shape[1:], size_bytes=ref.size_bytes // ref.shape[0], read=read)
    return found


def _join(stem: str, tensors: Mapping[str, TensorRef], settings: Mapping[str, Any], file: Path) -> TensorRef:
    weight, scales, biases = (tensors.get(f"{stem}.{part}") for part in PARTS)
    own = settings.get(re.sub(r"\.experts\.\d+\.", ".switch_mlp.", stem))
    rules = {**settings, **own} if isinstance(own, dict) else settings
    supported(file, "mode", rules.get("mode") or "affine", ("affine",))
    bits, group = whole_number(rules, "bits", file), whole_number(rules, "group_size", file)
    supported(file, f"{stem}.bits" if own else "bits", bits, BITS)
    if weight is None or scales is None or biases is None:
        raise lacking(file, f"{stem}.weight", PARTS)
    check_stored(file, ("u32",), weight)
    check_scales(file, scales, biases)
    out, inputs = weight.shape[0], weight.shape[-1] * 32 // bits
    if not group or inputs % group or len(weight.shape) != 2 or {scales.shape, biases.shape} != {(out, inputs // group)}:
        raise unfitting(file, f"{stem}.weight")

    def read() -> QuantizedTensor:
        return affine(words(weight), value(scales).float(), value(biases).float(), bits, group)

    return joined(f"{stem}.weight", (out, inputs), f"affine {Scheme(bits, group)} mlx", [weight, scales, biases], read)


def _expansion(name: str, tensors: Mapping[str, TensorRef], file: Path) -> TensorRef:
    """kv_b_proj from its parts, where they are dense: quantized ones are so along other inputs than the whole."""
    layer = name.removesuffix("kv_b_proj.weight")
    keys, values = (tensors.get(f"{layer}{part}.weight") for part in (KEYS, VALUES))
    if keys is None or values is None:
        raise lacking(file, name, (KEYS, VALUES))
    if keys.stored not in DENSE_DTYPES or values.stored not in DENSE_DTYPES:
        raise ModelUnsupported(
            "{file}: tensor {tensor} is a quantized part of kv_b_proj, which is read only whole.",
            hint="Use the model that this one was converted from.",
            file=file,
            tensor=keys.name if keys.stored not in DENSE_DTYPES else values.name,
        )
    if len(keys.shape) != 3 or len(values.shape) != 3 or keys.shape[:2] != (values.shape[0], values.shape[2]):
        raise unfitting(file, name)
    heads, rank, nope = keys.shape
    shape = heads * (nope + values.shape[1]), rank
    return joined(name, shape, keys.stored, [keys, values], lambda: join_expansion(value(keys), value(values)))


def join_expansion(keys: Tensor, values: Tensor) -> Tensor:
    """[heads, rank, nope] and [heads, value, rank] to kv_b_proj [heads * (nope + value), rank]."""
    return torch.cat((keys.transpose(1, 2), values), dim=1).flatten(0, 1)


def split_expansion(weight: Tensor, heads: int, nope: int) -> tuple[Tensor, Tensor]:
    """The inverse of `join_expansion`."""
    by_head = weight.unflatten(0, (heads, -1))
    return by_head[:, :nope].transpose(1, 2).contiguous(), by_head[:, nope:].contiguous()
