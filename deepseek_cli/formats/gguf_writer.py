"""GGUF files, written tensor by tensor (specification: ggml/docs/gguf.md). Codes are moved into ggml's blocks, never rounded."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.blocks import BLOCKS
from deepseek_cli.formats.gguf import ARRAY, DENSE, MAGIC, PACKED, STRING, Gguf, each_weight
from deepseek_cli.tensors import BlockTensor, CorrectedTensor, QuantizedTensor, Weight, dense, in_pieces

VERSION = 3
ALIGNMENT = 32
GROUP = 32  # values that share a scale in Q4_0, Q4_1 and Q8_0
KINDS = {"f32": 0, "f16": 1, "bf16": 30, **{name: kind for kind, name in PACKED.items()}}
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k": 15, "q5_k": 17, "q6_k": 18}
FILE_TYPES["bf16"] = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor that will be written: `kind` is "f32" or a block format, `shape` is in PyTorch's order.

    `read` gives its values from first to last: all at once, or those of a stack one by one.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    read: Callable[[], Iterable[Weight]]

    @property
    def size(self) -> int:
        values = math.prod(self.shape)
        if self.kind not in BLOCKS:
            return values * DENSE[KINDS[self.kind]].itemsize
        block = BLOCKS[self.kind]
        return values // block.values * block.bytes


def write_gguf(path: Path, metadata: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Write a file, one weight in memory at a time. Integers in `metadata` become u32, in lists i32; floats f32."""
    with path.open("wb") as file:
        file.write(_header(metadata, entries))
        for entry in entries:
            written = 0
            for part in (rows for weight in entry.read() for rows in in_pieces(weight)):
                data = encode(part, entry.kind).contiguous().view(torch.uint8).flatten()
                written += file.write(data.numpy().data)
            if written != entry.size:
                raise ValueError(f"planned {entry.size} bytes for {entry.name}, got {written}")
            file.write(bytes(-written % ALIGNMENT))


def widened(source: Gguf) -> list[Entry]:
    """The tensors of a file as float32."""
    return [Entry(name, "f32", found.shape, partial(each_weight, source, found)) for name, found in source.tensors.items()]


def file_type(entries: Sequence[Entry]) -> int:
    """What `general.file_type` calls a file: after the kind of most of its values."""
    values = dict.fromkeys(FILE_TYPES, 0)
    for entry in entries:
        values[entry.kind] += math.prod(entry.shape)
    return FILE_TYPES[max(values, key=lambda kind: values[kind])]


def unfit(found: Weight) -> str:
    """Why no block format holds exactly these codes; "" where one does."""
    if isinstance(found, BlockTensor):
        return ""
    if isinstance(found, CorrectedTensor):
        return "GGUF has no place for its low-rank correction"
    if not isinstance(found, QuantizedTensor) or found.permutation is not None or found.offset is not None:
        return "GGUF has no format for its codes"
    inputs = found.shape[1]
    if inputs % GROUP or (found.group % GROUP and found.group < inputs):
        return f"GGUF wants rows and groups in multiples of {GROUP}"
    if not torch.equal(found.scale.half().float(), found.scale):
        return "its scales do not fit float16"
    if found.zero is None:
        return ""
    if found.bits != 4:
        return "GGUF has no 8-bit format with zero points"
    least = -found.zero.float() * found.scale
    silent = (found.scale == 0) & (found.zero != 0)  # a zero point that would be lost
    return "" if torch.equal(least.half().float(), least) and not silent.any() else "its zero points do not fit float16"


def kind_of(found: Weight) -> str:
    """The block format of a weight that is not `unfit`."""
    if isinstance(found, BlockTensor):
        return found.format
    assert isinstance(found, QuantizedTensor)
    return "q8_0" if found.bits == 8 else "q4_0" if found.zero is None else "q4_1"


def encode(found: Weight, kind: str) -> Tensor:
    """A weight's values in a dense kind; its codes in blocks, uint8 [out, bytes per row], after ggml/src/ggml-common.h."""
    if kind not in BLOCKS:
        return dense(found).to(DENSE[KINDS[kind]])
    if isinstance(found, BlockTensor):
        return found.raw
    assert isinstance(found, QuantizedTensor)
    out, inputs = found.shape
    groups = torch.arange(0, inputs, GROUP) // found.group
    scale = found.scale[:, groups]  # [out, in / 32]
    packed = found.packed.view(out, len(groups), -1)
    if kind == "q8_0":
        return torch.cat((halves(scale), packed ^ 0x80), dim=-1).flatten(1)
    least = [] if found.zero is None else [halves(-found.zero[:, groups].float() * scale)]
    first, second = packed.chunk(2, dim=-1)  # of ggml's bytes each holds a code of the first half, and one of the second
    codes = torch.stack((first & 15 | second << 4, first >> 4 | second & 240), dim=-1)
    return torch.cat((halves(scale), *least, codes.flatten(-2)), dim=-1).flatten(1)


def halves(values: Tensor) -> Tensor:
    """[out, n] as float16, uint8 [out, n, 2]"""
    return values.half().view(torch.uint8).unflatten(-1, (-1, 2))


def _header(metadata: Mapping[str, Any], entries: Sequence[Entry]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(entries), len(metadata))]
    parts += [_string(key) + encode_value(value) for key, value in metadata.items()]
    position = 0
    for entry in entries:
        dims = entry.shape[::-1]
        parts.append(_string(entry.name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, KINDS[entry.kind], position))
        position += entry.size + -entry.size % ALIGNMENT
    header = b"".join(parts)
    return header + bytes(-len(header) % ALIGNMENT)


def encode_value(value: Any) -> bytes:
    """A metadata value behind its type."""
    if isinstance(value, list):
        kind, item = _kind(value[0], listed=True)
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(map(item, value))
    kind, item = _kind(value)
    return struct.pack("<I", kind) + item(value)


def _kind(value: Any, listed: bool = False) -> tuple[int, Callable[[Any], bytes]]:
    if isinstance(value, str):
        return STRING, _string
    if isinstance(value, bool):
        return 7, struct.Struct("<?").pack
    if isinstance(value, float):
        return 6, struct.Struct("<f").pack
    return (5, struct.Struct("<i").pack) if listed else (4, struct.Struct("<I").pack)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
