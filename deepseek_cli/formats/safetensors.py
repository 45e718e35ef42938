"""Safetensors: checked headers, mapped tensors, and a writer that holds one tensor at a time.

The format (github.com/huggingface/safetensors, README): u64 header length, JSON header, tensor bytes without gaps.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt, ModelUnsupported
from deepseek_cli.fields import read_json
from deepseek_cli.formats.mapped import MappedFile
from deepseek_cli.tensors import TensorRef

MAX_HEADER_BYTES = 100_000_000
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a header; `offset` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name.

    Raises ModelCorrupt naming file and tensor when the header is truncated, oversized, not JSON, or when tensors
    overlap, leave gaps, or reach past the end; ModelUnsupported for a dtype outside DTYPES.
    """
    file_size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if file_size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, file_size - 8):
            raise _corrupt("{file}: its header claims {length} bytes, the file has {size}.", path, length=length, size=file_size)
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise _corrupt("{file}: its header is not valid JSON.", path) from None
    if not isinstance(header, dict):
        raise _corrupt("{file}: its header is not a JSON object.", path)
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, value, 8 + length) for name, value in header.items()}
    _check_layout(path, entries, 8 + length, file_size)
    return entries


def _entry(path: Path, name: str, value: Any, data_start: int) -> Entry:
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        sound = all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and begin <= end
    except (TypeError, KeyError, ValueError):
        sound = False
    if not sound:
        raise _corrupt("{file}: tensor {tensor} has a damaged header entry.", path, tensor=name)
    if dtype not in DTYPES:
        raise ModelUnsupported(
            "{file}: tensor {tensor} has dtype {dtype}.",
            hint="Supported are {known}.",
            file=path,
            tensor=name,
            dtype=dtype,
            known=", ".join(DTYPES),
        )
    if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise _corrupt(
            "{file}: tensor {tensor} has {size} bytes, its shape {shape} needs others.",
            path,
            tensor=name,
            size=end - begin,
            shape=shape,
        )
    return Entry(dtype, tuple(shape), data_start + begin, end - begin)


def _check_layout(path: Path, entries: Mapping[str, Entry], start: int, file_size: int) -> None:
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].size)):
        if entry.offset != position:
            raise _corrupt("{file}: tensor {tensor} overlaps its neighbour or leaves a gap.", path, tensor=name)
        position += entry.size
        if position > file_size:
            raise _corrupt(
                "{file}: tensor {tensor} ends at byte {end}, but the file holds {size}.",
                path,
                tensor=name,
                end=position,
                size=file_size,
            )
    if position != file_size:
        raise _corrupt("{file} has {extra} bytes behind its last tensor.", path, extra=file_size - position)


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
        raise _corrupt("{file}: weight_map does not map tensors to files.", folder / INDEX)
    shards = {file: read_file(_shard(folder, file)) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise _corrupt("{file}: tensor {tensor} is not in {shard}.", folder / INDEX, tensor=name, shard=file)
    return {name: shards[file][name] for name, file in weight_map.items()}


def _shard(folder: Path, file: str) -> Path:
    if not re.fullmatch(r"[\w.-]+\.safetensors", file):
        raise _corrupt("{file}: {shard} points outside the folder.", folder / INDEX, shard=file)
    if not (folder / file).is_file():
        raise _corrupt("{file}: the file {shard} is missing.", folder / INDEX, shard=file)
    return folder / file


def _corrupt(message: str, path: Path, **facts: object) -> ModelCorrupt:
    return ModelCorrupt(message, hint="Pull the model again, or check where it comes from.", file=path, **facts)


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

    def write(self, name: str, tensor: Tensor | Iterable[Tensor], passed: Callable[[], None] = lambda: None) -> None:
        """`tensor` may come some rows at a time. `passed` is called after each piece: what it was read from can go."""
        shard, planned = next(self.expected)
        file, written = self._open(shard), 0
        for part in [tensor] if isinstance(tensor, Tensor) else tensor:
            if (name, part.dtype, part.shape[1:]) != (planned.name, planned.dtype, planned.shape[1:]):
                raise ValueError(f"planned {planned}, got {name} {part.dtype} {tuple(part.shape)}")
            written += part.nbytes
            if part.numel():
                content = part.contiguous().flatten().view(torch.uint8).numpy().data
                for start in range(0, len(content), PIECE_BYTES):
                    file.write(content[start : start + PIECE_BYTES])
                    passed()
        if written != planned.size:
            raise ValueError(f"planned {planned}, got {written} bytes of {name}")

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
