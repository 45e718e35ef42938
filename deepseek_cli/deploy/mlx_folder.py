"""Which tensors an MLX folder holds, and from which weights each comes: planned whole, written one after another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.architectures.llama import EMBEDDING, HEAD
from deepseek_cli.formats.mlx import KEYS, VALUES, split_expansion
from deepseek_cli.formats.mlx_writer import Layout, layout_of, parts_of, planned_parts
from deepseek_cli.formats.safetensors import Planned, Writer
from deepseek_cli.handle import ModelHandle
from deepseek_cli.reporter import Reporter
from deepseek_cli.tensors import DENSE_DTYPES, QuantizedTensor, TensorRef, Weight, dense

EXPERT = re.compile(r"(?P<mlp>.+)\.experts\.(?P<expert>\d+)\.(?P<linear>\w+)\.weight")
SPLITTING = ("deepseek_v3",)  # families whose kv_b_proj lies in two parts


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of the folder, or the three of a quantized one; `refs` are the weights it holds, several where stacked."""

    name: str
    refs: tuple[TensorRef, ...]
    stacked: bool = False
    heads: tuple[int, int] | None = None  # kv_b_proj: how many, and the channels of each that are keys

    def planned(self, layout: Layout | None) -> list[Planned]:
        if layout:
            return planned_parts(self.name.removesuffix(".weight"), self.shape, layout)
        if not self.heads:
            return [Planned(self.name, self.dtype, self.shape)]
        (heads, nope), (rows, rank) = self.heads, self.shape
        stem = self.name.removesuffix("kv_b_proj.weight")
        return [
            Planned(f"{stem}{KEYS}.weight", self.dtype, (heads, rank, nope)),
            Planned(f"{stem}{VALUES}.weight", self.dtype, (heads, rows // heads - nope, rank)),
        ]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.refs), *self.refs[0].shape) if self.stacked else self.refs[0].shape

    @property
    def dtype(self) -> torch.dtype:
        """Where it is dense: its own, or float32, which holds all that quantized weights come to."""
        own = [DENSE_DTYPES.get(ref.stored, torch.float32) for ref in self.refs]
        return reduce(torch.promote_types, [torch.float32 if dtype == torch.float64 else dtype for dtype in own])

    def tensors(self, layout: Layout | None) -> Iterator[Tensor]:
        """Those of `planned`."""
        weights = [ref.read() for ref in self.refs]
        if layout:
            parts = [parts_of(weight, layout) for weight in weights if isinstance(weight, QuantizedTensor)]
            yield from (self._joined(list(part)) for part in zip(*parts, strict=True))
        elif self.heads:
            yield from split_expansion(dense(weights[0]).to(self.dtype), *self.heads)
        else:
            yield self._joined([dense(weight).to(self.dtype) for weight in weights])

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return torch.stack(parts) if self.stacked else parts[0]

    def release(self) -> None:
        for ref in self.refs:
            ref.release()


@dataclass(frozen=True, slots=True)
class Plan:
    """Every piece with its layout, None where it is dense; `dense` says why quantized weights are."""

    pieces: tuple[tuple[Piece, Layout | None], ...]
    dense: tuple[tuple[str, str], ...]

    @property
    def planned(self) -> list[Planned]:
        return [part for piece, layout in self.pieces for part in piece.planned(layout)]

    @property
    def quantization(self) -> dict[str, Any]:
        """config.json's `quantization`: the commonest settings, and those of each module that has others."""
        settings = {piece.name.removesuffix(".weight"): layout.settings for piece, layout in self.pieces if layout}
        if not settings:
            return {}
        common = dict(Counter(tuple(found.items()) for found in settings.values()).most_common(1)[0][0])
        return common | {module: found for module, found in settings.items() if found != common}


def plan(handle: ModelHandle) -> Plan:
    """Scales are read, to see which dtype holds them; codes are not."""
    norm = DENSE_DTYPES.get(handle.tensors["model.norm.weight"].stored, torch.float32)
    preferred = norm if norm.itemsize == 2 else torch.bfloat16
    pieces, fallbacks = [], []
    for piece in _pieces(handle):
        found: Layout | str | None = None
        if any(ref.quantized for ref in piece.refs):
            found = _whole(piece) or layout_of(_each(piece), preferred)
        if isinstance(found, str):
            fallbacks += [(ref.name, found) for ref in piece.refs if ref.quantized]
        pieces.append((piece, found if isinstance(found, Layout) else None))
        piece.release()
    return Plan(tuple(pieces), tuple(fallbacks))


def _each(piece: Piece) -> Iterator[Weight]:
    return (ref.read() for ref in piece.refs)


def _whole(piece: Piece) -> str:
    """Why mlx-lm wants this weight dense, if it does."""
    if piece.heads:
        return "mlx-lm splits and transposes it"
    return "mlx-lm's gates are dense" if piece.name.endswith(".mlp.gate.weight") else ""


def _pieces(handle: ModelHandle) -> Iterator[Piece]:
    refs = as_released(handle)
    for name, ref in refs.items():
        expert = EXPERT.fullmatch(name)
        if expert and expert["expert"] == "0":
            names = (f"{expert['mlp']}.experts.{i}.{expert['linear']}.weight" for i in range(handle.config.gate.experts))
            yield Piece(
                f"{expert['mlp']}.switch_mlp.{expert['linear']}.weight", tuple(map(refs.__getitem__, names)), stacked=True
            )
        elif name.endswith(".kv_b_proj.weight") and handle.architecture.name in SPLITTING:
            yield Piece(name, (ref,), heads=(handle.config.latent.heads, handle.config.latent.nope_dim))
        elif not expert:
            yield Piece(name, (ref,))
    if unties(handle):
        yield Piece(f"{HEAD}.weight", (refs[f"{EMBEDDING}.weight"],))


def unties(handle: ModelHandle) -> bool:
    """mlx-lm's models of DeepSeek's families have a head of their own: a tied embedding is written twice."""
    return bool(handle.config.tied) and handle.architecture.name.startswith("deepseek")


def as_released(handle: ModelHandle) -> dict[str, TensorRef]:
    """The weights with their rows as mlx-lm rotates them: in pairs, as DeepSeek releases them."""
    order = {} if _in_pairs(handle) else pair_order(handle)
    refs = {name: handle.tensors[name] for name in handle.weights}
    return {name: ref.with_rows(_inverse(order[name])) if name in order else ref for name, ref in refs.items()}


def pair_order(handle: ModelHandle) -> dict[str, list[int]]:
    """By name, the rows of what is rotated in pairs, as our operators want them."""
    if not getattr(handle.config, "latent", None):
        return {}
    return {name: list(rows) for name, rows in handle.architecture.row_order(replace(handle.config, interleaved=True)).items()}


def _in_pairs(handle: ModelHandle) -> bool:
    return bool(getattr(handle.config, "interleaved", True))


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def write(found: Plan, folder: Path, reporter: Reporter) -> None:
    """model.safetensors, or shards with an index: a tensor in memory at a time, or a layer's stack of experts."""
    total, done = sum(part.size for part in found.planned), 0
    with Writer(folder, found.planned, made_for="mlx") as writer:
        for piece, layout in found.pieces:
            for part, tensor in zip(piece.planned(layout), piece.tensors(layout), strict=True):
                writer.write(part.name, tensor)
                done += part.size
                reporter.progress("write", done, total, "B")
            piece.release()
