"""GPTQ checkpoints, as AutoGPTQ, GPTQModel and AutoRound write them (github.com/ModelCloud/GPTQModel, nn_modules/qlinear).

`X.qweight` int32 [in * bits / 32, out], codes along the input, least significant bits first; `X.qzeros` int32
[groups, out * bits / 32], zero points along the output; `X.scales` [groups, out]; `X.g_idx` int32 [in], the group of each input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepseek_cli.formats.grouped import grouped, input_order, value
from deepseek_cli.formats.parts import (
    BITS,
    INDICES,
    check_scales,
    check_stored,
    joined,
    lacking,
    supported,
    unfitting,
    whole_number,
    wrong,
)
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import QuantizedTensor, TensorRef, unpack

PARTS = ("qweight", "qzeros", "scales", "g_idx")
VERSIONS = {"gptq": True, "gptq_v2": False}  # whether zero points are stored less one
ONES = {4: 0x11111111, 8: 0x01010101}  # added to whole words: a zero point of 0 was borrowed from the next one


@dataclass(frozen=True, slots=True)
class Rules:
    """What config.json says of all modules."""

    layouts: tuple[tuple[int, int], ...]  # bits and group size, 0 for a whole row
    less_one: bool  # zero points are stored so
    act_order: bool
    symmetric: bool


def assemble(tensors: Mapping[str, TensorRef], settings: Mapping[str, Any], file: Path) -> dict[str, TensorRef]:
    """The same tensors with the parts of each weight joined into one reference called `X.weight`."""
    rules, joint = _rules(settings, file), {}
    for name, ref in tensors.items():
        stem, _, part = name.rpartition(".")
        if part == "qweight":
            joint[f"{stem}.weight"] = _join(stem, tensors, rules, file)
        elif part not in PARTS or f"{stem}.qweight" not in tensors:
            joint[name] = ref
    return joint


def _rules(settings: Mapping[str, Any], file: Path) -> Rules:
    version = settings.get("checkpoint_format") or "gptq"
    supported(file, "checkpoint_format", version, tuple(VERSIONS))
    supported(file, "pack_dtype", settings.get("pack_dtype"), (None, "int32"))
    flags = settings.get("desc_act") is True, settings.get("sym") is not False
    return Rules(tuple(_layouts(settings, file)), VERSIONS[version], *flags)


def _layouts(settings: Mapping[str, Any], file: Path) -> Iterator[tuple[int, int]]:
    """Those of all modules, then those of some. Which rule holds for a module is seen in its shapes."""
    dynamic = settings.get("dynamic") or {}
    if not isinstance(dynamic, dict) or not all(isinstance(rule, dict) for rule in dynamic.values()):
        raise wrong(file, "dynamic", dynamic, "an object of objects")
    for rule in ({}, *dynamic.values()):
        merged = {**settings, **rule}
        bits = whole_number(merged, "bits", file)
        supported(file, "bits", bits, BITS)
        yield bits, whole_number(merged, "group_size", file, 128)


def _join(stem: str, tensors: Mapping[str, TensorRef], rules: Rules, file: Path) -> TensorRef:
    weight, zeros, scales, index = (tensors.get(f"{stem}.{part}") for part in PARTS)
    if weight is None or zeros is None or scales is None or (index is None and rules.act_order):
        raise lacking(file, f"{stem}.qweight", PARTS)
    check_stored(file, ("i32",), weight, zeros)
    check_scales(file, scales)
    if index:
        check_stored(file, INDICES, index)
    out = weight.shape[-1]
    bits, group = next((layout for layout in rules.layouts if _fits(*layout, weight, zeros, scales)), (0, 0))
    inputs = weight.shape[0] * 32 // (bits or 1)
    if not bits or (index and index.shape != (inputs,)):
        raise unfitting(file, f"{stem}.weight")
    size = group or inputs

    def read() -> QuantizedTensor:
        packed = value(weight).T.flatten().view(torch.uint8).view(out, -1)
        stored = value(zeros) + ONES[bits] if rules.less_one else value(zeros)
        zero = unpack(stored.contiguous().view(torch.uint8), bits)[:, :out].T.contiguous()
        return grouped(packed, value(scales).T, zero, bits, size, input_order(index, size, file))

    order = "act-order " if rules.act_order and input_order(index, size, file) is not None else ""
    parts = [ref for ref in (weight, zeros, scales, index) if ref]
    return joined(f"{stem}.weight", (out, inputs), f"{order}{Scheme(bits, group, rules.symmetric)} gptq", parts, read)


def _fits(bits: int, group: int, weight: TensorRef, zeros: TensorRef, scales: TensorRef) -> bool:
    inputs, out = weight.shape[0] * 32 // bits, weight.shape[-1]
    groups = -(-inputs // (group or inputs))
    shapes = (weight.shape[1:], scales.shape, zeros.shape)
    return shapes == ((out,), (groups, out), (groups, -(-out * bits // 32)))
