"""Quantized folders in compressed-tensors naming: `pack-quantized`, read and written, and `int-quantized`, read.

Packed: `X.weight_packed` int32 [out, in * bits / 32] (codes offset to unsigned, least significant bits first), `X.weight_scale`
[out, groups], `X.weight_shape` int64 [2], and for asymmetric schemes `X.weight_zero_point` int32 [out * bits / 32, groups];
`X.weight_g_idx` int32 [in], the group of each input, where these are not in order.
Not packed: `X.weight` and `X.weight_zero_point` are int8. What is said of activations is left out: they are not rounded here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.formats import correction
from deepseek_cli.formats.grouped import grouped, input_order, value, words
from deepseek_cli.formats.parts import INDICES, check_scales, check_stored, corrupt, joined, supported, unfitting, whole_number
from deepseek_cli.formats.safetensors import Planned
from deepseek_cli.schemes import Scheme, pattern_of
from deepseek_cli.tensors import CorrectedTensor, QuantizedTensor, TensorRef, pack, unpack

SCALE_DTYPE = torch.bfloat16  # holds portable scales exactly
PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
FORMATS = ("pack-quantized", "int-quantized")
WEIGHTS: dict[str, tuple[object, ...]] = {"type": ("int",), "num_bits": (3, 4, 8), "strategy": ("group", "channel")}


def planned_parts(name: str, shape: tuple[int, int], scheme: Scheme, scales: torch.dtype = SCALE_DTYPE) -> list[Planned]:
    """What `parts_of` will give for a weight called `name` (without `.weight`)."""
    out, inputs = shape
    groups = -(-inputs // scheme.group_of(inputs))
    parts = [
        Planned(f"{name}.weight_packed", torch.int32, (out, inputs * scheme.bits // 32)),
        Planned(f"{name}.weight_scale", scales, (out, groups)),
        Planned(f"{name}.weight_shape", torch.int64, (2,)),
    ]
    if not scheme.symmetric:
        parts.append(Planned(f"{name}.weight_zero_point", torch.int32, (-(-out * scheme.bits // 32), groups)))
    return parts + correction.planned_parts(name, shape, scheme)


def parts_of(
    name: str, weight: QuantizedTensor | CorrectedTensor, scales: torch.dtype = SCALE_DTYPE
) -> Iterator[tuple[str, Tensor]]:
    """The tensors that hold a quantized weight on disk."""
    if isinstance(weight, CorrectedTensor):
        yield from parts_of(name, weight.rounded, scales)
        yield from correction.parts_of(name, weight)
        return
    yield f"{name}.weight_packed", weight.packed.contiguous().view(torch.int32)
    yield f"{name}.weight_scale", weight.scale.to(scales)
    yield f"{name}.weight_shape", torch.tensor(weight.shape, dtype=torch.int64)
    if weight.zero is not None:
        yield f"{name}.weight_zero_point", _pack_rows(weight.zero, weight.bits)


def _pack_rows(zero: Tensor, bits: int) -> Tensor:
    """uint8 [out, groups] to int32 [ceil(out * bits / 32), groups]: packed along the first axis."""
    words = -(-len(zero) * bits // 32)
    padded = torch.nn.functional.pad(zero.T, (0, -len(zero) % 32))  # after 32 codes a word ends whatever their bits are
    flat = pack(padded, bits).flatten().view(torch.int32)  # one group per row would leave strides that cannot be viewed
    return flat.view(len(padded), -1)[:, :words].T.contiguous()


def _unpack_rows(packed: Tensor, bits: int, out: int) -> Tensor:
    whole = torch.nn.functional.pad(packed.T, (0, -len(packed) % bits))  # 32 codes lie in so many words
    codes = unpack(whole.flatten().view(torch.uint8), bits)
    return codes.view(packed.shape[1], -1)[:, :out].T.contiguous()


def quantization_config(schemes: Mapping[str, Scheme], dense: list[str]) -> dict[str, Any]:
    """The `quantization_config` of config.json for linears quantized by `schemes` (module name to scheme)."""
    names = _targets({"lm_head": None, **schemes, **dict.fromkeys(dense)})  # which is a linear elsewhere even where it is tied
    left = names.pop(None, [])
    one = len(names) == 1
    groups = {
        f"group_{i}": {"targets": ["Linear"] if one else targets, "weights": _arguments(scheme)}
        for i, (scheme, targets) in enumerate(names.items())
        if scheme
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": left,
    }


def _targets(schemes: Mapping[str, Scheme | None]) -> dict[Scheme | None, list[str]]:
    """What names the modules of each scheme: one expression for all layers and experts where they agree, else each name."""
    found: dict[str, set[Scheme | None]] = {}
    for name, scheme in schemes.items():
        found.setdefault(pattern_of(name), set()).add(scheme)
    targets: dict[Scheme | None, dict[str, None]] = {}  # a dict keeps the order and holds each once
    for name, scheme in schemes.items():
        pattern = pattern_of(name)
        alike = pattern != name and len(found[pattern]) == 1
        expression = re.escape(pattern).replace(r"\*", r"\d+")
        targets.setdefault(scheme, {})[f"re:{expression}$" if alike else name] = None
    return {scheme: list(names) for scheme, names in targets.items()}


def _arguments(scheme: Scheme) -> dict[str, Any]:
    strategy = {"strategy": "group", "group_size": scheme.group} if scheme.group else {"strategy": "channel"}
    corrected = {correction.RANK: scheme.rank} if scheme.rank else {}
    return {"num_bits": scheme.bits, "type": "int", "symmetric": scheme.symmetric, **strategy, **corrected}


def assemble(tensors: Mapping[str, TensorRef], settings: Mapping[str, Any], file: Path) -> dict[str, TensorRef]:
    """The same tensors with the parts of each quantized weight joined into one reference called `X.weight`."""
    groups, ranks = (_numbers(settings, field, file) for field in ("group_size", correction.RANK))
    _check_formats(settings, file)
    joint = {}
    for name, ref in tensors.items():
        stem, _, part = name.rpartition(".")
        if part == "weight_packed":
            joined_ref = _join_packed(stem, tensors, groups(stem), file)
            joint[f"{stem}.weight"] = correction.with_correction(joined_ref, tensors, ranks(stem), file)
        elif part == "weight" and ref.stored == "i8":
            joint[name] = _join_bytes(stem, tensors, groups(stem), file)
        elif part not in (*PARTS, *correction.PARTS):
            joint[name] = ref
    return joint


def _check_formats(settings: Mapping[str, Any], file: Path) -> None:
    """Raises ModelUnsupported for what would give other weights than the tensors say."""
    groups = settings["config_groups"].values()
    for group in groups:
        for field, known in WEIGHTS.items():
            supported(file, f"config_groups.weights.{field}", group["weights"].get(field), (None, *known))
        supported(file, "config_groups.format", group.get("format"), (None, *FORMATS))
    each = bool(groups) and all(group.get("format") for group in groups)
    supported(file, "format", settings.get("format"), (None, *FORMATS, *(["mixed-precision"] if each else [])))
    for field, key, known in (("sparsity_config", "format", (None, "dense")), ("transform_config", "config_groups", (None,))):
        inner = settings.get(field) or {}  # what else may have been done to weights
        supported(file, f"{field}.{key}", (inner.get(key) or None) if isinstance(inner, dict) else inner, known)


def _numbers(settings: Mapping[str, Any], field: str, file: Path) -> Callable[[str], list[int]]:
    """What the config allows a module as `field`: that of the groups that name it, else of all groups. Of group sizes 0 is a
    whole row."""
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or not all(
        isinstance(g, dict) and isinstance(g.get("weights"), dict) and isinstance(g.get("targets", []), list)
        for g in groups.values()
    ):
        raise corrupt("{file}: quantization_config has no sound config_groups.", file)
    numbers = [whole_number(g["weights"], field, file) for g in groups.values()]
    exact: dict[str, list[int]] = {}
    patterns: list[tuple[re.Pattern[str], int]] = []
    for group, number in zip(groups.values(), numbers, strict=True):
        for target in map(str, group.get("targets", [])):
            if target.startswith("re:"):
                patterns.append((_expression(target[3:], file), number))
            else:
                exact.setdefault(target, []).append(number)

    def allowed(stem: str) -> list[int]:
        return [*exact.get(stem, []), *(number for pattern, number in patterns if pattern.fullmatch(stem))] or numbers

    return allowed


def _expression(text: str, file: Path) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error:
        raise corrupt("{file}: {target} in config_groups is no regular expression.", file, target=text) from None


def _join_packed(stem: str, tensors: Mapping[str, TensorRef], group_sizes: list[int], file: Path) -> TensorRef:
    packed, scale, shape, zero, index = (tensors.get(f"{stem}.{part}") for part in PARTS)
    if packed is None or scale is None or shape is None:
        raise corrupt("{file}: tensor {tensor} lacks its scale or its shape.", file, tensor=f"{stem}.weight_packed")
    check_stored(file, ("i32",), *(ref for ref in (packed, zero) if ref))
    check_stored(file, INDICES, *(ref for ref in (shape, index) if ref))
    check_scales(file, scale)
    size = shape.read()
    out, inputs = (int(n) for n in size.tolist()) if isinstance(size, Tensor) and size.numel() == 2 else (0, 0)
    bits = next((b for b in (3, 4, 8) if packed.shape == (out, inputs * b // 32)), 0)
    group = _group_of(scale, inputs, group_sizes)
    if not bits or not group or scale.shape != (out, scale.shape[-1]) or (index and index.shape != (inputs,)):
        raise unfitting(file, f"{stem}.weight")
    if zero and zero.shape != (-(-out * bits // 32), scale.shape[-1]):
        raise unfitting(file, f"{stem}.weight")
    parts = [ref for ref in (packed, scale, shape, zero, index) if ref]

    def read() -> QuantizedTensor:
        zeros = None if zero is None else _unpack_rows(value(zero), bits, out)
        return grouped(words(packed), value(scale), zeros, bits, group, input_order(index, group, file))

    order = "act-order " if input_order(index, group, file) is not None else ""
    return joined(f"{stem}.weight", (out, inputs), order + _label(bits, group, inputs, group_sizes, zero), parts, read)


def _join_bytes(stem: str, tensors: Mapping[str, TensorRef], group_sizes: list[int], file: Path) -> TensorRef:
    weight, scale, zero = (tensors.get(f"{stem}.{part}") for part in ("weight", "weight_scale", "weight_zero_point"))
    if weight is None or scale is None:
        raise corrupt("{file}: tensor {tensor} lacks its scale or its shape.", file, tensor=f"{stem}.weight")
    check_stored(file, ("i8",), weight, *([zero] if zero else []))
    check_scales(file, scale)
    out, inputs = (weight.shape[0], weight.shape[-1])
    group = _group_of(scale, inputs, group_sizes)
    if not group or len(weight.shape) != 2 or scale.shape != (out, scale.shape[-1]) or (zero and zero.shape != scale.shape):
        raise unfitting(file, f"{stem}.weight")

    def read() -> QuantizedTensor:
        signed = lambda ref: words(ref) ^ 0x80  # noqa: E731 - to codes around 128
        return grouped(signed(weight), value(scale), signed(zero) if zero else None, 8, group)

    parts = [ref for ref in (weight, scale, zero) if ref]
    return joined(weight.name, weight.shape, _label(8, group, inputs, group_sizes, zero), parts, read)


def _group_of(scale: TensorRef, inputs: int, group_sizes: list[int]) -> int:
    """The group size among those allowed that gives so many scales, or 0."""
    found = scale.shape[-1] if scale.shape else 0
    return next((g or inputs for g in group_sizes if found == -(-inputs // (g or inputs or 1))), 0)


def _label(bits: int, group: int, inputs: int, group_sizes: list[int], zero: TensorRef | None) -> str:
    return str(Scheme(bits, 0 if group == inputs and 0 in group_sizes else group, symmetric=zero is None))
