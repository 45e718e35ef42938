"""An ONNX graph under construction. Weights go straight to its data file, so that memory holds one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

IR_VERSION, OPSET = 10, 21  # the newest that ONNX Runtime 1.31's kernels and readers before it share
NEWER = {"TensorScatter": (12, 24)}  # operators that need a newer IR version and opset: only graphs with them get these
MICROSOFT = "com.microsoft"
CONTRIBUTED = {  # by ONNX Runtime, beyond ONNX itself
    "FusedMatMul",
    "GatherBlockQuantized",
    "GroupQueryAttention",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QMoE",
    "QuickGelu",
    "RotaryEmbedding",
    "SkipSimplifiedLayerNormalization",
}
INLINE_BYTES = 1024  # smaller tensors stand in the graph itself
PAGE_BYTES, LINE_BYTES = 4096, 64  # large tensors start on a page, so that a mapped file needs no copy; others on a cache line
DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.uint8: ir.DataType.UINT8,
    torch.int8: ir.DataType.INT8,
    torch.int64: ir.DataType.INT64,
}
Inputs = Sequence[ir.Value | None]


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor whose rows are made some at a time, as they are written."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Iterable[Tensor]]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def whole(self) -> Tensor:
        return torch.cat([*self.make()])


Part = Tensor | Rows


@dataclass(frozen=True, slots=True)
class DataFiles:
    """What a graph's data is called behind the graph's own name. `most` bytes go into one file, and then _1, _2 … follow."""

    suffix: str = ".data"
    most: int | None = None


ONE_FILE = DataFiles()


def pieces(parts: Iterable[Part]) -> Iterator[Tensor]:
    for part in parts:
        yield from part.make() if isinstance(part, Rows) else [part]


class Graph:
    """Nodes in order of execution. Use as a context manager: on a clean exit the graph is written beside its data."""

    def __init__(self, path: Path, metadata: dict[str, str] | None = None, files: DataFiles = ONE_FILE) -> None:
        self.path, self.metadata, self.files = path, metadata, files
        self.data_paths = [path.with_name(f"{path.name}{files.suffix}")]
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.written = 0  # nodes, those of branches included
        self.versions = IR_VERSION, OPSET
        self.initializers: dict[str, ir.Value] = {}
        self.places: dict[str, tuple[Path, ir.DataType, int, int]] = {}  # of initializers: data file, type, offset, bytes

    def __enter__(self) -> Graph:
        self.data = self.data_paths[-1].open("wb")
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.data.close()
        if kind is None:
            used = [v for v in self.initializers.values() if v.uses()]
            ir_version, opset = self.versions
            opsets = {"": opset, MICROSOFT: 1}
            graph = ir.Graph(self.inputs, self.outputs, nodes=self.nodes, initializers=used, opset_imports=opsets, name="model")
            model = ir.Model(graph, ir_version=ir_version, producer_name="deepseek-cli", metadata_props=self.metadata)
            ir.save(model, self.path)

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str], default: Tensor | None = None) -> ir.Value:
        """With a default it may be left out when the graph is run."""
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.inputs.append(value)
        if default is not None:
            value.const_value = ir.tensor(default.numpy(), name=name)
            self.initializers[name] = value
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str], first: bool = False) -> None:
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)
        self.outputs.insert(0 if first else len(self.outputs), value)

    def node(self, op: str, inputs: Inputs, name: str = "", weights: str = "", **attributes: Any) -> ir.Value:
        """Append a node of one output. `weights` records in the file which tensors, by on-disk name, its rows came from."""
        return self.outputs_of(op, inputs, 1, name, weights, **attributes)[0]

    def outputs_of(
        self, op: str, inputs: Inputs, count: int, name: str = "", weights: str = "", **attributes: Any
    ) -> list[ir.Value]:
        """Append a node of `count` outputs."""
        name = name or f"{op}_{self.written}"
        values = [ir.Value(name=f"{name}.{i}" if i else name) for i in range(count)]
        domain = MICROSOFT if op in CONTRIBUTED else ""
        origin = {"weights": weights} if weights else None
        self.nodes.append(ir.node(op, inputs, attributes, domain=domain, outputs=values, name=name, metadata_props=origin))
        self.written += 1
        self.versions = max(self.versions, NEWER.get(op, self.versions))
        return values

    def choose(self, condition: ir.Value, then: Callable[[], ir.Value], otherwise: Callable[[], ir.Value]) -> ir.Value:
        """One of two outcomes, decided as the graph runs. Both are written into branches, which see all that came before."""
        return self.node("If", [condition], then_branch=self._branch(then), else_branch=self._branch(otherwise))

    def _branch(self, write: Callable[[], ir.Value]) -> ir.Graph:
        outer, self.nodes = self.nodes, []
        outcome = write()
        branch, self.nodes = ir.Graph([], [outcome], nodes=self.nodes, name=f"branch_{self.written}"), outer
        return branch

    def constant(self, name: str, *parts: Part, shape: Sequence[int] | None = None) -> ir.Value:
        """An initializer whose bytes are those of `parts`, one after another; the same name gives the same initializer."""
        if name not in self.initializers:
            shape = shape or (sum(len(p) for p in parts), *parts[0].shape[1:])
            self._add(name, self._store(name, parts, shape))
        return self.initializers[name]

    def stream(self, name: str, parts: Iterable[Part], shape: Sequence[int], dtype: ir.DataType | None = None) -> ir.Value:
        """An initializer whose parts are written as they come, so that memory holds one of them; by default of their dtype."""
        self._add(name, self._append(name, parts, shape, dtype=dtype))
        return self.initializers[name]

    def alias(self, name: str, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Another initializer over the bytes of `value`, in another shape."""
        if name not in self.initializers:
            self._add(name, self._external(name, *self.places[value.name or ""], shape))
        return self.initializers[name]

    def _add(self, name: str, tensor: Any) -> None:
        self.initializers[name] = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)

    def _store(self, name: str, parts: Sequence[Part], shape: Sequence[int]) -> Any:
        size = sum(p.nbytes for p in parts)
        if size < INLINE_BYTES:
            return ir.tensor(np.concatenate([p.numpy().reshape(-1) for p in pieces(parts)]).reshape(shape), name=name)
        if self.files.most and self.data.tell() and self.data.tell() + PAGE_BYTES + size > self.files.most:
            self._next_file()
        return self._append(name, parts, shape, PAGE_BYTES if size >= PAGE_BYTES else LINE_BYTES)

    def _next_file(self) -> None:
        self.data.close()
        self.data_paths.append(self.path.with_name(f"{self.path.name}{self.files.suffix}_{len(self.data_paths)}"))
        self.data = self.data_paths[-1].open("wb")

    def _append(
        self,
        name: str,
        parts: Iterable[Part],
        shape: Sequence[int],
        border: int = PAGE_BYTES,
        dtype: ir.DataType | None = None,
    ) -> Any:
        self.data.write(bytes(-self.data.tell() % border))
        start, held = self.data.tell(), torch.uint8
        for part in pieces(parts):
            held = part.dtype
            self.data.write(part.contiguous().numpy().reshape(-1).view(np.uint8).data)
        self.places[name] = self.data_paths[-1], dtype or DTYPES[held], start, self.data.tell() - start
        return self._external(name, *self.places[name], shape)

    def _external(
        self, name: str, file: Path, dtype: ir.DataType, offset: int, size: int, shape: Sequence[int]
    ) -> ir.ExternalTensor:
        return ir.ExternalTensor(file.name, offset, size, dtype, shape=ir.Shape(shape), name=name, base_dir=self.path.parent)
