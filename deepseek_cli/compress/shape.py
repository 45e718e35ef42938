"""A model that is being made smaller: until it is written, its tensors are views of the original's, rows or columns left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.formats import safetensors
from deepseek_cli.formats.headers import read_file
from deepseek_cli.handle import ModelHandle, read_config
from deepseek_cli.refs import TensorRef
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.tokenizer import Tokenizer
from deepseek_cli.tensors import DENSE_DTYPES, dense, take_rows

Decision = Mapping[str, Any]  # what a step did to one layer, as plain values


@dataclass(frozen=True, slots=True)
class Shape:
    """What steps take and give: the model as it is by now, its tokenizer, and the calibration text in its tokens.

    `kept` are the tokens of the original that are left, None for all; `begins` are, for every token of the original, the place
    in `kept` of the one that it begins with when it is written in those, its own where it is left. `windows` [count, length].
    """

    handle: ModelHandle
    tokenizer: Tokenizer
    windows: Tensor
    kept: Tensor | None = None
    begins: Tensor | None = None
    decisions: tuple[Decision, ...] = ()

    def with_model(self, config: Mapping[str, Any], tensors: Mapping[str, TensorRef], *decisions: Decision) -> Shape:
        """With these fields of config.json and these tensors, by their new names, beside none of the others."""
        handle = self.handle
        raw = {**handle.raw_config, **config}
        _, checked = read_config(handle.root / "config.json", raw)
        smaller = replace(handle, raw_config=raw, config=checked, tensors=dict(tensors))
        return replace(self, handle=smaller, decisions=(*self.decisions, *decisions))


@dataclass(frozen=True, slots=True)
class Context:
    """What steps may use: `folder` for tensors that they compute, which stay there until the result is written."""

    folder: Path
    source: str = "builtin"  # the calibration text, as `read_calibration` takes it
    reporter: Reporter = SILENT
    original: ModelHandle | None = None  # before the first step
    work: Path | None = None  # what a run that is stopped leaves to the next
    seed: int = 0  # of the order in which text is learned from

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, TensorRef]:
        """The tensors, in a file of this name instead of in memory."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        planned = [safetensors.Planned(key, value.dtype, tuple(value.shape)) for key, value in tensors.items()]
        with safetensors.Writer(folder, planned, shard_bytes=1 << 62) as writer:
            for key, value in tensors.items():
                writer.write(key, value)
        return read_file(folder / "model.safetensors")


def picked(ref: TensorRef, rows: Tensor | None = None, columns: Tensor | None = None) -> TensorRef:
    """Those rows and columns of it, dense."""
    dtype = dense_dtype(ref)

    def read() -> Tensor:
        weight = dense(ref.read() if rows is None else take_rows(ref.read(), rows))
        return (weight if columns is None else weight[..., columns]).to(dtype)

    shape = list(ref.shape)
    if rows is not None:
        shape[0] = len(rows)
    if columns is not None:
        shape[-1] = len(columns)
    stored = ref.stored if not ref.quantized else "bf16"
    return TensorRef(ref.name, tuple(shape), stored, math.prod(shape) * dtype.itemsize, read, ref.release)


def dense_dtype(ref: TensorRef) -> torch.dtype:
    """What it is written in: its own, where it is dense."""
    return DENSE_DTYPES.get(ref.stored, torch.bfloat16)


def without(count: int, dropped: Iterable[int]) -> Tensor:
    """The places below `count` that are not dropped, in order."""
    gone = set(dropped)
    return torch.tensor([i for i in range(count) if i not in gone], dtype=torch.long)
