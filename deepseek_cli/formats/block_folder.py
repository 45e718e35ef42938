"""Folders whose quantized weights lie in ggml's block formats: `X.weight.q4_k` holds the rows of X's blocks, uint8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deepseek_cli.blocks import BLOCKS
from deepseek_cli.formats.gguf import from_blocks
from deepseek_cli.formats.grouped import value
from deepseek_cli.formats.parts import check_stored, joined, unfitting
from deepseek_cli.formats.safetensors import Planned
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import TensorRef


def planned_part(stem: str, shape: tuple[int, int], scheme: Scheme) -> Planned:
    block = BLOCKS[scheme.block]
    return Planned(f"{stem}.weight.{scheme.block}", torch.uint8, (shape[0], shape[1] // block.values * block.bytes))


def assemble(tensors: Mapping[str, TensorRef], settings: Mapping[str, Any], file: Path) -> dict[str, TensorRef]:
    """The same tensors, those in blocks under the name of the weight that they hold."""
    found = {}
    for name, ref in tensors.items():
        weight, _, format = name.rpartition(".")
        found[weight if format in BLOCKS else name] = _joined(weight, format, ref, file) if format in BLOCKS else ref
    return found


def _joined(name: str, format: str, ref: TensorRef, file: Path) -> TensorRef:
    block = BLOCKS[format]
    check_stored(file, ("u8",), ref)
    if len(ref.shape) != 2 or ref.shape[1] % block.bytes:
        raise unfitting(file, name)
    out, inputs = ref.shape[0], ref.shape[1] // block.bytes * block.values
    return joined(name, (out, inputs), format, [ref], lambda: from_blocks(format, value(ref), inputs))
