"""Safetensors, read: checked headers, and lazy references to what they describe. PyTorch is loaded by the first read.

The format (github.com/huggingface/safetensors, README): u64 header length, JSON header, tensor bytes without gaps.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_cli.errors import ModelCorrupt, ModelUnsupported
from deepseek_cli.fields import read_json
from deepseek_cli.formats.mapped import MappedFile
from deepseek_cli.refs import TensorRef

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 100_000_000
INDEX = "model.safetensors.index.json"
ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
}


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
    overlap, leave gaps, or reach past the end; ModelUnsupported for a dtype outside ITEM_BYTES.
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
    if dtype not in ITEM_BYTES:
        raise ModelUnsupported(
            "{file}: tensor {tensor} has dtype {dtype}.",
            hint="Supported are {known}.",
            file=path,
            tensor=name,
            dtype=dtype,
            known=", ".join(ITEM_BYTES),
        )
    if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
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
        lambda: _read(mapped, entry),
        lambda: mapped.release(entry.offset, entry.size),
    )


def _read(mapped: MappedFile, entry: Entry) -> Tensor:
    from deepseek_cli.formats.safetensors import DTYPES

    return mapped.tensor(entry.offset, entry.shape, DTYPES[entry.dtype])


def read_folder(folder: Path, layers: int | None = None) -> dict[str, TensorRef]:
    """Lazy references to every tensor of a single-file or sharded checkpoint.

    The index is a claim, not a fact: its files must lie in the folder, and each tensor in the file it names. Given the number of
    the model's `layers`, shards that only draft further tokens may be missing: then all that drafts is left out.
    """
    single = folder / "model.safetensors"
    if not (folder / INDEX).is_file():
        if single.is_file():
            return read_file(single)
        raise ModelCorrupt(
            "{folder} holds no model.safetensors and no {index}.", hint="Pull the model again.", folder=folder, index=INDEX
        )
    weight_map = weight_map_of(read_json(folder / INDEX), folder / INDEX)
    if layers is not None and not all((folder / file).is_file() for file in draft_shards(weight_map, layers)):
        weight_map = {name: file for name, file in weight_map.items() if not _drafts(name, layers)}
    shards = {file: read_file(_shard(folder, file)) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise _corrupt("{file}: tensor {tensor} is not in {shard}.", folder / INDEX, tensor=name, shard=file)
    return {name: shards[file][name] for name, file in weight_map.items()}


def weight_map_of(index: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The file that each tensor lies in, as an index claims. Raises ModelCorrupt where it does not."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise _corrupt("{file}: weight_map does not map tensors to files.", path)
    return weight_map


def draft_shards(weight_map: Mapping[str, str], layers: int) -> set[str]:
    """The files that hold nothing but layers behind the model's own, which only draft further tokens (MTP)."""
    return set(weight_map.values()) - {file for name, file in weight_map.items() if not _drafts(name, layers)}


def _drafts(name: str, layers: int) -> bool:
    match = re.match(r"model\.layers\.(\d{1,9})\.", name)
    return match is not None and int(match[1]) >= layers


def _shard(folder: Path, file: str) -> Path:
    if not re.fullmatch(r"[\w.-]+\.safetensors", file):
        raise _corrupt("{file}: {shard} points outside the folder.", folder / INDEX, shard=file)
    if not (folder / file).is_file():
        raise _corrupt("{file}: the file {shard} is missing.", folder / INDEX, shard=file)
    return folder / file


def _corrupt(message: str, path: Path, **facts: object) -> ModelCorrupt:
    return ModelCorrupt(message, hint="Pull the model again, or check where it comes from.", file=path, **facts)
