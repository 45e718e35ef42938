"""ExecuTorch programs lowered to XNNPACK, read with ExecuTorch's own parsers: the weights they compute with, in order.

A program is a list of calls: of kernels, and of graphs that XNNPACK runs. A graph's constants lie beside it as named data,
and some are handed to it as arguments; neither has the name of a weight, so what tells them apart is when they are used.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as xnnpack
from executorch.exir._serialize import _flatbuffer as flatbuffer
from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary, serialize_pte_binary
from executorch.exir._serialize.data_serializer import DataEntry
from executorch.exir.scalar_type import ScalarType
from executorch.exir.schema import DelegateCall, KernelCall
from executorch.exir.schema import Tensor as Described
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.tensors import QuantizedTensor, Weight, dense

DTYPES = {ScalarType.FLOAT: torch.float32, ScalarType.CHAR: torch.int8, ScalarType.BYTE: torch.uint8}
EMBEDDINGS = ("quantized_decomposed::embedding_4bit", "quantized_decomposed::embedding_byte", "aten::embedding")
INPUTS = {"XNNFullyConnected": ("filter_id", "bias_id"), "XNNMultiply": ("input1_id", "input2_id")}  # that may be constants
NOWHERE = (1 << 64) - 1  # the offset of what lies among the named data
INVALID = (1 << 32) - 1  # of a value that is not there
Graph = dict[str, Any]  # as the schema of XNNPACK graphs has it


class Program:
    """A program and its graphs. Raises ModelCorrupt for a file that is none."""

    def __init__(self, path: Path) -> None:
        try:
            self.file: PTEFile = deserialize_pte_binary(path.read_bytes())
            self.plan = next(plan for plan in self.file.program.execution_plan if plan.name == "forward")
            self.graphs = [self._read_graph(delegate) for delegate in self.plan.delegates]
        except Exception as error:  # whatever these parsers raise for bytes that they were not made for
            raise ModelCorrupt(
                "{file} cannot be loaded: {reason}", hint="Deploy the model again.", file=path, reason=str(error).split("\n")[0]
            ) from error

    def products(self) -> Iterator[Weight]:
        """Rows of embeddings, weights and biases of products, in the order of use."""
        for call in self._calls():
            if isinstance(call, DelegateCall):
                yield from self._used("XNNFullyConnected", call)
            elif (operator := self.plan.operators[call.op_index].name) in EMBEDDINGS:
                yield self._embedding(operator, call.args)

    def factors(self) -> Iterator[Weight]:
        """What is multiplied with element by element, in the order of use: the weights of norms."""
        for call in self._calls():
            if isinstance(call, DelegateCall):
                yield from self._used("XNNMultiply", call)

    def _calls(self) -> Iterator[Any]:
        calls = (instruction.instr_args for instruction in self.plan.chains[0].instructions)
        return (call for call in calls if isinstance(call, KernelCall | DelegateCall))

    def write_exact(self, path: Path) -> None:
        """The same program, but products multiply float32 by the values of their weights, and round nothing."""
        changed = deepcopy(self.file.program)
        for graph, delegate in zip(self.graphs, self.plan.delegates, strict=True):
            blob = write_graph(self._exact(deepcopy(graph)))
            changed.backend_delegate_data[delegate.processed.index].data = blob
        file = PTEFile(changed, self.file.mutable_data, self.file.named_data)
        with path.open("wb") as out:
            serialize_pte_binary(file, extract_delegate_segments=True).write_to_file(out)

    def _read_graph(self, delegate: Any) -> Graph:
        blob = bytes(self.file.program.backend_delegate_data[delegate.processed.index].data)
        header = xnnpack.XNNHeader.from_bytes(blob[: xnnpack.XNNHeader.EXPECTED_LENGTH])
        return read_graph(blob[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])

    def _used(self, kind: str, call: DelegateCall) -> Iterator[Weight]:
        """The constants of a graph's nodes of one kind."""
        graph = self.graphs[call.delegate_index]
        for node in graph["xnodes"]:
            if node["xnode_union_type"] == kind:
                ids = [node["xnode_union"][field] for field in INPUTS[kind]]
                found = [self._constant(graph, id_, call.args) for id_ in ids if id_ != INVALID]
                yield from (weight for weight in found if weight is not None)

    def _constant(self, graph: Graph, id_: int, args: list[int]) -> Weight | None:
        """The weight behind a graph's value; None for what is computed."""
        value = graph["xvalues"][id_]["xvalue_union"]
        plain = value.get("tensor_value", value)
        if plain["external_id"] != INVALID:
            outer = self.plan.values[args[plain["external_id"]]].val
            return self._held(outer) if isinstance(outer, Described) and outer.data_buffer_idx else None
        if not plain["constant_buffer_idx"]:
            return None
        data, shape = self._named(graph, plain["constant_buffer_idx"]), plain["dims"]
        if plain is value:
            return data.view(torch.float32).view(shape)
        return self._quantized(graph, value, data)

    def _quantized(self, graph: Graph, value: Graph, data: Tensor) -> QuantizedTensor:
        rows, inputs = value["tensor_value"]["dims"]
        params = value["quant_params"]
        scale = self._named(graph, params["scale_buffer_idx"])
        if value["tensor_value"]["datatype"] == "xnn_datatype_qbint4":
            wide = scale.view(torch.bfloat16).float().view(rows, -1)
            return QuantizedTensor(data.view(rows, -1), wide, 4, params["group_size"])
        return QuantizedTensor(data.view(rows, -1) ^ 128, scale.view(torch.float32).view(rows, 1), 8, inputs)

    def _named(self, graph: Graph, index: int) -> Tensor:
        """Bytes of a graph's constant."""
        entry = self.file.named_data.pte_data[graph["constant_data"][index]["named_key"]]
        return as_bytes(self.file.named_data.buffers[entry.buffer_index])[: graph["constant_data"][index]["size"]]

    def _held(self, described: Any) -> Tensor:
        """A constant of the program itself."""
        dtype, shape = DTYPES[described.scalar_type], described.sizes
        count = dtype.itemsize * torch.Size(shape).numel()
        return as_bytes(self.file.program.constant_buffer[described.data_buffer_idx].storage)[:count].view(dtype).view(*shape)

    def _embedding(self, operator: str, args: list[int]) -> Weight:
        rows = self._held(self.plan.values[args[0]].val)
        if operator == "aten::embedding":
            return rows
        scale = self._held(self.plan.values[args[1]].val)
        if operator == "quantized_decomposed::embedding_byte":
            return QuantizedTensor(rows.view(torch.uint8) ^ 128, scale, 8, rows.shape[1] // scale.shape[1])
        return QuantizedTensor(rows << 4 | rows >> 4, scale, 4, 2 * rows.shape[1] // scale.shape[1])

    def _exact(self, graph: Graph) -> Graph:
        source = {
            node["xnode_union"]["output_id"]: node["xnode_union"]["input_id"]
            for node in graph["xnodes"]
            if node["xnode_union_type"] == "XNNConvert"
        }
        for node in graph["xnodes"]:
            product = node["xnode_union"]
            if node["xnode_union_type"] == "XNNFullyConnected" and product["input1_id"] in source:
                product["input1_id"] = source[product["input1_id"]]
                self._widen(graph, product["filter_id"])
        graph["xnodes"] = [node for node in graph["xnodes"] if node["xnode_union_type"] != "XNNConvert"]
        return graph

    def _widen(self, graph: Graph, id_: int) -> None:
        """Put the values of a quantized weight in its place."""
        plain = graph["xvalues"][id_]["xvalue_union"]["tensor_value"]
        weight = self._constant(graph, id_, [])
        assert weight is not None
        data = dense(weight).numpy().tobytes()
        key = f"float32_{len(self.file.named_data.buffers)}"
        self.file.named_data.pte_data[key] = DataEntry(len(self.file.named_data.buffers), 16, None)
        self.file.named_data.buffers.append(data)
        plain |= {"datatype": "xnn_datatype_fp32", "constant_buffer_idx": len(graph["constant_data"])}
        graph["constant_data"].append({"offset": NOWHERE, "size": len(data), "named_key": key})
        graph["xvalues"][id_] = {"xvalue_union_type": "XNNTensorValue", "xvalue_union": plain}


def as_bytes(data: Any) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def read_graph(data: bytes) -> Graph:
    with tempfile.TemporaryDirectory() as folder:
        schema, file = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        schema.write_bytes(xnnpack._get_schema_bytes())
        file.write_bytes(data)
        flatbuffer._flatc_decompile(folder, str(schema), str(file), ["--raw-binary"])
        graph: Graph = json.loads(file.with_suffix(".json").read_text())
        return graph


def write_graph(graph: Graph) -> bytes:
    """The graph behind the header that ExecuTorch's delegate reads; its constants are named data."""
    with tempfile.TemporaryDirectory() as folder:
        schema, file = Path(folder, "schema.fbs"), Path(folder, "graph.json")
        schema.write_bytes(xnnpack._get_schema_bytes())
        file.write_text(json.dumps(graph))
        flatbuffer._flatc_compile(folder, str(schema), str(file))
        data = file.with_suffix(".bin").read_bytes()
    alignment = xnnpack.CONSTANT_TENSOR_ALIGNMENT
    start = xnnpack._aligned_size(xnnpack.XNNHeader.EXPECTED_LENGTH, alignment)
    whole = xnnpack._aligned_size(len(data), alignment)
    header = xnnpack.XNNHeader(start, len(data), start + whole, 0).to_bytes()
    return header.ljust(start, b"\0") + data.ljust(whole, b"\0")
