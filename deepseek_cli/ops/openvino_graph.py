"""An OpenVINO IR under construction. Weights go straight to its .bin file, so that memory holds one tensor at a time.

Shapes are not written: `Core.read_model` infers them anew whatever the file says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import torch
from torch import Tensor

IR_VERSION = "11"
PRECISIONS = {
    "f32": "FP32", "f16": "FP16", "bf16": "BF16", "i64": "I64", "i32": "I32",
    "i8": "I8", "u8": "U8", "i4": "I4", "u4": "U4", "boolean": "BOOL",
}  # fmt: skip
DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int64: "i64"}
OPSETS = {  # the version of each operator, where it is not opset1
    "Assign": 6,
    "Broadcast": 3,
    "Gather": 8,
    "Range": 4,
    "ReadValue": 6,
    "ScaledDotProductAttention": 13,
    "ShapeOf": 3,
    "Swish": 4,
}
BORDER = 64  # bytes: constants start on a cache line, so that a mapped file needs no copy


@dataclass(frozen=True, slots=True)
class Value:
    """One output of an operator."""

    layer: str
    port: str
    dtype: str


class Graph:
    """Operators in order of execution. Use as a context manager: on a clean exit `path` is written beside its .bin file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.net = Xml.Element("net", name="model", version=IR_VERSION)
        self.layers, self.edges = Xml.SubElement(self.net, "layers"), Xml.SubElement(self.net, "edges")
        self.constants: dict[str, Value] = {}

    def __enter__(self) -> Graph:
        self.data = self.path.with_suffix(".bin").open("wb")
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.data.close()
        if kind is None:
            Xml.indent(self.net)
            Xml.ElementTree(self.net).write(self.path, encoding="utf-8", xml_declaration=True)

    def input(self, name: str, dtype: str, rank: int) -> Value:
        return self.node("Parameter", [], dtype, name=name, output=name, shape=",".join("?" * rank), element_type=dtype)

    def node(self, kind: str, inputs: Sequence[Value], dtype: str = "", name: str = "", output: str = "", **data: Any) -> Value:
        """Append an operator of one output, which has the type of its first input unless `dtype` says otherwise."""
        return self.outputs_of(kind, inputs, 1, dtype, name, output, **data)[0]

    def outputs_of(
        self, kind: str, inputs: Sequence[Value], count: int, dtype: str = "", name: str = "", output: str = "", **data: Any
    ) -> list[Value]:
        """`output` is what runtimes may call the outcome by; `data` are the operator's attributes."""
        number, dtype = str(len(self.layers)), dtype or inputs[0].dtype
        version = f"opset{OPSETS.get(kind, 1)}"
        layer = Xml.SubElement(self.layers, "layer", id=number, name=name or f"{kind}_{number}", type=kind, version=version)
        Xml.SubElement(layer, "data", {key: str(value) for key, value in data.items()})
        ports = Xml.SubElement(layer, "input")
        for port, value in enumerate(inputs):
            Xml.SubElement(ports, "port", id=str(port), precision=PRECISIONS[value.dtype])
            places = {"from-layer": value.layer, "from-port": value.port, "to-layer": number, "to-port": str(port)}
            Xml.SubElement(self.edges, "edge", places)
        ports, called = Xml.SubElement(layer, "output"), {"names": output} if output else {}
        values = [Value(number, str(len(inputs) + i), dtype) for i in range(count)]
        for value in values:
            Xml.SubElement(ports, "port", {"id": value.port, "precision": PRECISIONS[dtype], **called})
        return values

    def constant(self, name: str, tensor: Tensor, dtype: str = "", shape: Sequence[int] | None = None) -> Value:
        """The bytes of `tensor`, read as `dtype` in `shape` where these are given; the same name gives the same constant."""
        if name not in self.constants:
            self.data.write(bytes(-self.data.tell() % BORDER))
            start, dtype = self.data.tell(), dtype or DTYPES[tensor.dtype]
            self.data.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            extent = ", ".join(map(str, tensor.shape if shape is None else shape))
            size = self.data.tell() - start
            self.constants[name] = self.node("Const", [], dtype, name, element_type=dtype, shape=extent, offset=start, size=size)
        return self.constants[name]

    def integers(self, *numbers: int) -> Value:
        """int64 [count]"""
        return self.constant(f"integers.{'.'.join(map(str, numbers))}", torch.tensor(numbers))

    def scalar(self, number: float, dtype: torch.dtype = torch.float32) -> Value:
        return self.constant(f"{DTYPES[dtype]}.{number}", torch.tensor(number, dtype=dtype))
