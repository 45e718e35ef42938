"""An ONNX graph under construction. Weights go straight to its data file, so that memory holds one tensor at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

IR_VERSION, OPSET = 10, 21  # the newest that ONNX Runtime 1.31's kernels and readers before it share
MICROSOFT = "com.microsoft"
INLINE_BYTES = 1024  # smaller tensors stand in the graph itself
PAGE_BYTES, LINE_BYTES = 4096, 64  # large tensors start on a page, so that a mapped file needs no copy; others on a cache line
DTYPES = {torch.float32: ir.DataType.FLOAT, torch.uint8: ir.DataType.UINT8, torch.int64: ir.DataType.INT64}


class Graph:
    """Nodes in order of execution. Use as a context manager: on a clean exit the graph is written beside its data."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data_path = path.with_name(f"{path.name}.data")
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}

    def __enter__(self) -> Graph:
        self.data = self.data_path.open("wb")
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.data.close()
        if kind is None:
            graph = ir.Graph(
                self.inputs, self.outputs, nodes=self.nodes, initializers=list(self.initializers.values()),
                opset_imports={"": OPSET, MICROSOFT: 1}, name="model",
            )  # fmt: skip
            ir.save(ir.Model(graph, ir_version=IR_VERSION, producer_name="deepseek-cli"), self.path)

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

    def node(self, op: str, inputs: Sequence[ir.Value | None], name: str = "", *, domain: str = "", weights: str = "", **attributes: Any) -> ir.Value:
        return self.nodes_of(op, inputs, 1, name, domain=domain, weights=weights, **attributes)[0]

    def nodes_of(
        self, op: str, inputs: Sequence[ir.Value | None], outputs: int, name: str = "", *, domain: str = "", weights: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """Append a node; `weights` records in the file which tensors, by on-disk name, its rows came from."""
        name = name or f"{op}_{len(self.nodes)}"
        values = [ir.Value(name=f"{name}.{i}" if i else name) for i in range(outputs)]
        node = ir.node(
            op, inputs, attributes, domain=domain, outputs=values, name=name, metadata_props={"weights": weights} if weights else None
        )
        self.nodes.append(node)
        return values

    def constant(self, name: str, *parts: Tensor, shape: Sequence[int] | None = None) -> ir.Value:
        """An initializer whose bytes are those of `parts`, one after another; the same name gives the same initializer."""
        if name not in self.initializers:
            shape = shape or (sum(len(p) for p in parts), *parts[0].shape[1:])
            self._add(name, self._store(name, parts, shape))
        return self.initializers[name]

    def alias(self, name: str, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Another initializer over the bytes of `value`, in another shape."""
        if name not in self.initializers:
            t = value.const_value
            assert isinstance(t, ir.ExternalTensor)
            self._add(name, ir.ExternalTensor(t.location, t.offset, t.length, t.dtype, shape=ir.Shape(shape), name=name, base_dir=t.base_dir))
        return self.initializers[name]

    def _add(self, name: str, tensor: Any) -> None:
        self.initializers[name] = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)

    def _store(self, name: str, parts: Sequence[Tensor], shape: Sequence[int]) -> Any:
        size = sum(p.nbytes for p in parts)
        if size < INLINE_BYTES:
            return ir.tensor(np.concatenate([p.numpy().reshape(-1) for p in parts]).reshape(shape), name=name)
        self.data.write(bytes(-self.data.tell() % (PAGE_BYTES if size >= PAGE_BYTES else LINE_BYTES)))
        offset = self.data.tell()
        for part in parts:
            self.data.write(part.contiguous().numpy().reshape(-1).view(np.uint8).data)
        return ir.ExternalTensor(
            self.data_path.name, offset, size, DTYPES[parts[0].dtype], shape=ir.Shape(shape), name=name, base_dir=self.path.parent
        )
