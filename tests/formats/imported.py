"""Checkpoints in the formats of other tools: the golden ones of their own libraries, opened as folders with any part changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepseek_cli.formats import quantized, safetensors
from deepseek_cli.tensors import TensorRef

GOLDEN = Path(__file__).parent / "golden"


def golden(kind: str) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
    """By case: the parts and `values` of a linear, and its settings in config.json."""
    with safe_open(GOLDEN / f"{kind}.safetensors", "pt") as file:
        cases = {name: json.loads(config) for name, config in sorted(file.metadata().items())}
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    found: dict[str, dict[str, Tensor]] = {name: {} for name in cases}
    for name, tensor in parts.items():
        case, _, part = name.rpartition(".")
        found[case][part] = tensor
    return {name: (found[name], cases[name]) for name in cases}


def opened(folder: Path, tensors: dict[str, Tensor | None], config: dict[str, Any]) -> dict[str, TensorRef]:
    """What a folder with these tensors gives, those that are None left out."""
    kept = {name: t.contiguous() for name, t in tensors.items() if t is not None}
    save_file(kept, folder / "model.safetensors")
    raw = quantized.normalized(config)
    return quantized.assemble(safetensors.read_folder(folder), raw, folder / "config.json")


def linear(parts: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor | None]:
    """The parts of a linear called `m`, some of them changed."""
    return {f"m.{part}": t for part, t in {**parts, **changes}.items() if part != "values"}
