"""AWQ checkpoints in the GEMM layout, as AutoAWQ and AutoRound write them (github.com/casper-hansen/AutoAWQ).

`X.qweight` int32 [in, out / 8] and `X.qzeros` int32 [groups, out / 8], eight outputs in a word in an order of their own;
`X.scales` [groups, out]. Zero points are stored as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from deepseek_cli.formats.grouped import grouped, value, words
from deepseek_cli.formats.parts import check_scales, check_stored, joined, lacking, supported, unfitting, whole_number
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import QuantizedTensor, TensorRef, pack, unpack

PARTS = ("qweight", "qzeros", "scales")
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # the nibble of a word that holds its first output, its second …
BITS = 4


def assemble(tensors: Mapping[str, TensorRef], settings: Mapping[str, Any], file: Path) -> dict[str, TensorRef]:
    """The same tensors with the parts of each weight joined into one reference called `X.weight`."""
    supported(file, "version", str(settings.get("version") or "gemm").lower(), ("gemm",))
    supported(file, "bits", settings.get("bits", BITS), (BITS,))
    group = whole_number(settings, "group_size", file, 128)
    symmetric = settings.get("zero_point", True) is False
    joint = {}
    for name, ref in tensors.items():
        stem, _, part = name.rpartition(".")
        if part == "qweight":
            joint[f"{stem}.weight"] = _join(stem, tensors, group, symmetric, file)
        elif part not in PARTS or f"{stem}.qweight" not in tensors:
            joint[name] = ref
    return joint


def _join(stem: str, tensors: Mapping[str, TensorRef], group: int, symmetric: bool, file: Path) -> TensorRef:
    weight, zeros, scales = (tensors.get(f"{stem}.{part}") for part in PARTS)
    if weight is None or zeros is None or scales is None:
        raise lacking(file, f"{stem}.qweight", PARTS)
    check_stored(file, ("i32",), weight, zeros)
    check_scales(file, scales)
    inputs, out = weight.shape[0], weight.shape[-1] * 8
    groups = -(-inputs // (group or inputs))
    if inputs % 2 or (len(weight.shape), scales.shape, zeros.shape) != (2, (groups, out), (groups, out // 8)):
        raise unfitting(file, f"{stem}.weight")

    def read() -> QuantizedTensor:
        packed = pack(_columns(words(weight)), BITS)
        return grouped(packed, value(scales).T, _columns(words(zeros)), BITS, group or inputs)

    return joined(f"{stem}.weight", (out, inputs), f"{Scheme(BITS, group, symmetric)} awq", [weight, zeros, scales], read)


def _columns(packed: Tensor) -> Tensor:
    """Bytes of words [n, out / 2] to codes [out, n]."""
    nibbles = unpack(packed, BITS).view(len(packed), -1, 8)
    return nibbles[..., PLACES].flatten(1).T.contiguous()
