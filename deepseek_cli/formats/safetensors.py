"""Safetensors, written: one tensor in memory at a time. `headers` reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from deepseek_cli.formats.headers import INDEX as INDEX
from deepseek_cli.formats.headers import read_file as read_file
from deepseek_cli.formats.headers import read_folder as read_folder

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
