"""Safetensors headers, checked without the weight of a tensor library: what a download has to know of a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelCorrupt, ModelUnsupported

MAX_HEADER_BYTES = 100_000_000
WIDTHS = {  # bytes of an element
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
    overlap, leave gaps, or reach past the end; ModelUnsupported for a dtype outside WIDTHS.
    """
    file_size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if file_size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, file_size - 8):
            raise corrupt("{file}: its header claims {length} bytes, the file has {size}.", path, length=length, size=file_size)
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise corrupt("{file}: its header is not valid JSON.", path) from None
    if not isinstance(header, dict):
        raise corrupt("{file}: its header is not a JSON object.", path)
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
        raise corrupt("{file}: tensor {tensor} has a damaged header entry.", path, tensor=name)
    if dtype not in WIDTHS:
        raise ModelUnsupported(
            "{file}: tensor {tensor} has dtype {dtype}.",
            hint="Supported are {known}.",
            file=path,
            tensor=name,
            dtype=dtype,
            known=", ".join(WIDTHS),
        )
    if math.prod(shape) * WIDTHS[dtype] != end - begin:
        raise corrupt(
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
            raise corrupt("{file}: tensor {tensor} overlaps its neighbour or leaves a gap.", path, tensor=name)
        position += entry.size
        if position > file_size:
            raise corrupt(
                "{file}: tensor {tensor} ends at byte {end}, but the file holds {size}.",
                path,
                tensor=name,
                end=position,
                size=file_size,
            )
    if position != file_size:
        raise corrupt("{file} has {extra} bytes behind its last tensor.", path, extra=file_size - position)


def corrupt(message: str, path: Path, **facts: object) -> ModelCorrupt:
    return ModelCorrupt(message, hint="Pull the model again, or check where it comes from.", file=path, **facts)
