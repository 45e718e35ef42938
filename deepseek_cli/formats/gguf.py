"""GGUF files (specification: ggml/docs/gguf.md): metadata, and lazy tensors whose quantized bits are carried as they are.

Every count, length and offset is a claim until it is checked against the size of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.blocks import BLOCKS
from deepseek_cli.errors import ModelCorrupt, ModelUnsupported
from deepseek_cli.formats.grouped import affine
from deepseek_cli.formats.mapped import MappedFile
from deepseek_cli.tensors import BlockTensor, QuantizedTensor, Weight, pack

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
DENSE = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
PACKED = {2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 12: "q4_k", 13: "q5_k", 14: "q6_k"}
SMALLEST_INFO = 8 + 4 + 8 + 4 + 8  # bytes that any tensor's entry takes


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` is in PyTorch's order; `stored` is "f32" or a block format; `offset` counts from the start of the file."""

    name: str
    stored: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Gguf:
    path: Path
    mapped: MappedFile
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


class Cursor:
    """Reads forward through the file and never past its end."""

    def __init__(self, path: Path, mapped: MappedFile) -> None:
        self.path, self.mapped, self.position = path, mapped, 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > self.mapped.size:
            raise corrupt("{file} ends inside its header, at byte {position}.", self.path, position=self.position)
        data, self.position = self.mapped.memory[self.position : end], end
        return data

    def scalar(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def count(self, what: str, smallest: int) -> int:
        """A number of things of which each takes at least `smallest` bytes."""
        value = int(self.scalar("<Q"))
        if value * smallest > self.mapped.size - self.position:
            raise corrupt("{file} claims {count} {what}, more than fit in it.", self.path, count=value, what=what)
        return value

    def string(self) -> str:
        data = self.take(self.count("bytes of a string", 1))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise corrupt(
                "{file} holds a string that is not UTF-8, before byte {position}.", self.path, position=self.position
            ) from None

    def strings(self, count: int) -> list[str]:
        """As `string`, for the quarter of a million of them that a vocabulary and its merges are."""
        memory, size, length, position = self.mapped.memory, self.mapped.size, struct.Struct("<Q").unpack_from, self.position
        found = []
        for _ in range(count):
            begin = position + 8
            end = begin + length(memory, position)[0] if begin <= size else size + 1
            if end > size:
                break
            try:
                found.append(memory[begin:end].decode())
            except UnicodeDecodeError:
                break
            position = end
        self.position = position
        return found if len(found) == count else [*found, self.string()]  # which says what is wrong with it

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY and depth == 0:
            inner = self.scalar("<I")
            count = self.count("array items", 8 if inner == STRING else struct.calcsize(SCALARS.get(inner, "<B")))
            if inner in SCALARS:
                code = SCALARS[inner]
                return list(struct.unpack(f"<{count}{code[1]}", self.take(count * struct.calcsize(code))))
            return self.strings(count) if inner == STRING else [self.value(inner, depth + 1) for _ in range(count)]
        if kind not in SCALARS:
            raise corrupt(
                "{file} has a value of unknown type {kind}, before byte {position}.", self.path, kind=kind, position=self.position
            )
        return self.scalar(SCALARS[kind])


def read_gguf(path: Path) -> Gguf:
    """Metadata and tensor table of a file.

    Raises ModelCorrupt naming file and tensor for what does not fit, ModelUnsupported for versions and types we do not read.
    """
    if path.stat().st_size < 24:
        raise corrupt("{file} is too short for a GGUF file.", path)
    mapped = MappedFile(path)
    cursor = Cursor(path, mapped)
    if cursor.take(4) != MAGIC:
        raise corrupt("{file} is not a GGUF file.", path)
    version = cursor.scalar("<I")
    if version not in VERSIONS:
        raise ModelUnsupported(
            "{file} has GGUF version {version}.", hint="Versions 2 and 3 are read.", file=path, version=version
        )
    tensor_count = cursor.count("tensors", SMALLEST_INFO)
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count("metadata entries", 13)):
        key = cursor.string()
        if key in metadata:
            raise corrupt("{file} has two values for {key}.", path, key=key)
        metadata[key] = cursor.value(cursor.scalar("<I"))
    entries = [_entry(cursor) for _ in range(tensor_count)]
    return Gguf(path, mapped, metadata, _place(path, mapped, cursor.position, metadata, entries))


def _entry(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name, dimensions = cursor.string(), cursor.scalar("<I")
    if not 1 <= dimensions <= 4:
        raise corrupt("{file}: tensor {tensor} has {count} dimensions.", cursor.path, tensor=name, count=dimensions)
    shape = tuple(reversed([int(cursor.scalar("<Q")) for _ in range(dimensions)]))
    if 0 in shape:
        raise corrupt("{file}: tensor {tensor} of shape {shape} holds nothing.", cursor.path, tensor=name, shape=list(shape))
    return name, shape, int(cursor.scalar("<I")), int(cursor.scalar("<Q"))


def _place(path: Path, mapped: MappedFile, end: int, metadata: Mapping[str, Any], entries: list[Any]) -> dict[str, GgufTensor]:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise corrupt("{file}: general.alignment is {alignment}, not a power of two.", path, alignment=alignment)
    start = end + -end % alignment
    tensors: dict[str, GgufTensor] = {}
    position = 0
    for name, shape, kind, offset in sorted(entries, key=lambda entry: entry[3]):
        size, stored = _size(path, name, shape, kind)
        if name in tensors:
            raise corrupt("{file} has two tensors named {tensor}.", path, tensor=name)
        if offset < position or offset % alignment:
            raise corrupt("{file}: tensor {tensor} overlaps its neighbour or is misplaced.", path, tensor=name)
        position = offset + size
        if start + position > mapped.size:
            raise corrupt(
                "{file}: tensor {tensor} ends at byte {end}, but the file holds {size}.",
                path,
                tensor=name,
                end=start + position,
                size=mapped.size,
            )
        tensors[name] = GgufTensor(name, stored, shape, start + offset, size)
    return tensors


def _size(path: Path, name: str, shape: tuple[int, ...], kind: int) -> tuple[int, str]:
    values = math.prod(shape)
    if kind in DENSE:
        return values * DENSE[kind].itemsize, {0: "f32", 1: "f16", 30: "bf16"}[kind]
    if kind not in PACKED:
        raise ModelUnsupported(
            "{file}: tensor {tensor} has ggml type {kind}.",
            hint="Read are F32, F16, BF16 and {known}.",
            file=path,
            tensor=name,
            kind=kind,
            known=", ".join(PACKED.values()).upper(),
        )
    block = BLOCKS[PACKED[kind]]
    if shape[-1] % block.values or len(shape) not in (2, 3):
        raise corrupt(
            "{file}: tensor {tensor} of shape {shape} cannot be {format}.",
            path,
            tensor=name,
            shape=list(shape),
            format=PACKED[kind],
        )
    return values // block.values * block.bytes, PACKED[kind]


def weight(file: Gguf, tensor: GgufTensor) -> Weight:
    """The tensor's values or codes: Q4_0, Q4_1 and Q8_0 as our own groups of 32, other block formats as they are.

    Where those are a stack of weights, their rows lie one below the other.
    """
    if tensor.stored not in BLOCKS:
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[tensor.stored]
        return file.mapped.tensor(tensor.offset, tensor.shape, dtype)
    out, inputs = math.prod(tensor.shape[:-1]), tensor.shape[-1]
    return from_blocks(tensor.stored, file.mapped.tensor(tensor.offset, (out, tensor.size // out), torch.uint8), inputs)


def each_weight(file: Gguf, tensor: GgufTensor) -> Iterator[Weight]:
    """Those of a stack one by one, each let go when the next is wanted; a tensor of fewer dimensions is a stack of one."""
    count = tensor.shape[0] if len(tensor.shape) == 3 else 1
    shape, size = tensor.shape[1:] if len(tensor.shape) == 3 else tensor.shape, tensor.size // count
    for start in range(tensor.offset, tensor.offset + tensor.size, size):
        yield weight(file, replace(tensor, shape=shape, offset=start, size=size))
        file.mapped.release(start, size)


def from_blocks(format: str, raw: Tensor, inputs: int) -> Weight:
    """Rows of blocks, uint8 [out, bytes per row]."""
    out = len(raw)
    if format not in ("q4_0", "q4_1", "q8_0"):
        return BlockTensor(format, raw, (out, inputs))
    blocks = raw.view(out, inputs // 32, -1)
    scale = _halves(blocks, 0)
    if format == "q8_0":
        return QuantizedTensor((blocks[..., 2:] ^ 0x80).reshape(out, inputs), scale, bits=8, group=32)
    nibbles = blocks[..., 2:] if format == "q4_0" else blocks[..., 4:]
    codes = torch.cat((nibbles & 15, nibbles >> 4), dim=-1).reshape(out, inputs)
    if format == "q4_1":
        return affine(pack(codes, 4), scale, _halves(blocks, 2), bits=4, group=32)
    return QuantizedTensor(pack(codes, 4), scale, bits=4, group=32)


def _halves(blocks: Tensor, start: int) -> Tensor:
    """The float16 at byte `start` of each block, float32 [out, groups]."""
    return blocks[..., start : start + 2].contiguous().view(torch.float16).squeeze(-1).float()


def corrupt(message: str, path: Path, **facts: object) -> ModelCorrupt:
    return ModelCorrupt(message, hint="Pull the model again, or check where it comes from.", file=path, **facts)
