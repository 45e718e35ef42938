"""Safetensors: checked headers, mapped tensors, and a writer that holds one tensor at a time.

The format (github.com/huggingface/safetensors, README): u64 header length, JSON header, tensor bytes without gaps.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.fields import read_json
from deepseek_cli.formats.mapped import MappedFile
from deepseek_cli.formats.safetensors_header import Entry, corrupt, read_header
from deepseek_cli.tensors import TensorRef

INDEX = "model.safetensors.index.json"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
SHARD_BYTES = 4 << 30
PIECE_BYTES = 64 << 20


def read_file(path: Path) -> dict[str, TensorRef]:
    """Lazy references to every tensor of one file."""
    entries = read_header(path)
    mapped = MappedFile(path)
    return {name: _reference(mapped, name, entry) for name, entry in entries.items()}


def _reference(mapped: MappedFile, name: str, entry: Entry) -> TensorRef:
    return TensorRef(
        name,
        entry.shape,
        entry.dtype.lower(),
        entry.size,
        lambda: mapped.tensor(entry.offset, entry.shape, DTYPES[entry.dtype]),
        lambda: mapped.release(entry.offset, entry.size),
    )


def read_folder(folder: Path) -> dict[str, TensorRef]:
    """Lazy references to every tensor of a single-file or sharded checkpoint.

    The index is a claim, not a fact: its files must lie in the folder, and each tensor in the file it names.
    """
    single = folder / "model.safetensors"
    if not (folder / INDEX).is_file():
        if single.is_file():
            return read_file(single)
        raise ModelCorrupt(
            "{folder} holds no model.safetensors and no {index}.", hint="Pull the model again.", folder=folder, index=INDEX
        )
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise corrupt("{file}: weight_map does not map tensors to files.", folder / INDEX)
    shards = {file: read_file(_shard(folder, file)) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise corrupt("{file}: tensor {tensor} is not in {shard}.", folder / INDEX, tensor=name, shard=file)
    return {name: shards[file][name] for name, file in weight_map.items()}


def _shard(folder: Path, file: str) -> Path:
    if not re.fullmatch(r"[\w.-]+\.safetensors", file):
        raise corrupt("{file}: {shard} points outside the folder.", folder / INDEX, shard=file)
    if not (folder / file).is_file():
        raise corrupt("{file}: the file {shard} is missing.", folder / INDEX, shard=file)
    return folder / file


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Writer:
    """A context manager that writes planned tensors in their order, into shards of at most SHARD_BYTES, holding none of them."""

    def __init__(self, folder: Path, planned: Iterable[Planned], shard_bytes: int = SHARD_BYTES, made_for: str = "pt") -> None:
        self.folder, self.made_for = folder, made_for
        self.shards = _split(list(planned), shard_bytes)
        self.expected = iter([(shard, tensor) for shard, tensors in self.shards.items() for tensor in tensors])
        self.current: tuple[str, IO[bytes]] | None = None

    def write(self, name: str, tensor: Tensor, passed: Callable[[], None] = lambda: None) -> None:
        """`passed` is called after each piece, so that what a large one was read from can go."""
        shard, planned = next(self.expected)
        if (name, tensor.dtype, tuple(tensor.shape)) != (planned.name, planned.dtype, planned.shape):
            raise ValueError(f"planned {planned}, got {name} {tensor.dtype} {tuple(tensor.shape)}")
        file = self._open(shard)
        if tensor.numel():
            content = tensor.contiguous().flatten().view(torch.uint8).numpy().data
            for start in range(0, len(content), PIECE_BYTES):
                file.write(content[start : start + PIECE_BYTES])
                passed()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.current:
            self.current[1].close()
        if kind is None:
            self._finish()

    def _finish(self) -> None:
        """Where there are several shards, an index says which tensor lies in which."""
        if (missing := next(self.expected, None)) is not None:
            raise ValueError(f"{missing[1].name} was planned and not written")
        if len(self.shards) > 1:
            index = {
                "metadata": {"total_size": sum(t.size for tensors in self.shards.values() for t in tensors)},
                "weight_map": {t.name: shard for shard, tensors in self.shards.items() for t in tensors},
            }
            (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _open(self, shard: str) -> IO[bytes]:
        if self.current and self.current[0] == shard:
            return self.current[1]
        if self.current:
            self.current[1].close()
        file = (self.folder / shard).open("wb")
        file.write(_header(self.shards[shard], self.made_for))
        self.current = (shard, file)
        return file


def _split(planned: list[Planned], shard_bytes: int) -> dict[str, list[Planned]]:
    groups: list[list[Planned]] = [[]]
    held = 0
    for tensor in planned:
        if groups[-1] and held + tensor.size > shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(tensor)
        held += tensor.size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, 1)}


def _header(tensors: list[Planned], made_for: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": made_for}}
    position = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.size],
        }
        position += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensor bytes start aligned
    return len(text).to_bytes(8, "little") + text
