"""Lowering to XNNPACK without weights: ExecuTorch sees their shapes, and their names stand where their bytes would.

It copies a program's tensors for every part that it lowers, and holds all copies until the end. So there are none, and what
each name stands for is made when the program is written, some rows at a time.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from unittest import mock

import torch
from executorch.backends.xnnpack.operators import op_quant_dequant
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import CONSTANT_TENSOR_ALIGNMENT
from executorch.backends.xnnpack.utils.utils import get_tensor_name, is_param_node
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
from executorch.exir._serialize._cord import FileBackedData
from executorch.exir._serialize._program import PTEFile, serialize_pte_binary
from executorch.exir.emit._emitter import _Emitter
from executorch.exir.schema import EValue
from executorch.exir.tensor import make_tensor_value
from torch.export import ExportedProgram
from torch.fx.traceback import NodeSource

from deepseek_cli.formats.pte import NOWHERE
from deepseek_cli.ops.executorch_constants import TABLES, Constant

describe = NodeSource.__init__


class Streamed(FileBackedData):
    """What ExecuTorch's serializer takes for the bytes of a file. They are made while they are written."""

    def __init__(self, constant: Constant) -> None:
        self.constant = constant

    def __len__(self) -> int:
        return self.constant.size

    def __deepcopy__(self, memo: object) -> Streamed:
        return self

    def write_to_file(self, outfile: BinaryIO) -> None:
        for piece in self.constant.pieces():
            outfile.write(piece.contiguous().flatten().view(torch.uint8).numpy().data)


def lower(decoder: torch.nn.Module, step: int, methods: dict[str, Any], constants: Mapping[str, Constant]) -> PTEFile:
    """The program for up to `step` tokens at once. The bytes of its constants are their names, in ASCII."""
    example = torch.zeros(1, min(2, step), dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    shapes = {1: torch.export.Dim("n", min=1, max=step)} if step > 1 else None, None
    with torch.no_grad(), names_for_bytes(constants):
        exported = torch.export.export(decoder, example, dynamic_shapes=shapes, strict=False)
        seen = {node.name: node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"}
        for place, buffer in exported.graph_signature.inputs_to_buffers.items():
            if buffer not in TABLES:
                exported.state_dict[buffer] = seen[place]  # a fake tensor: who looks for values fails
        edge = to_edge_transform_and_lower(
            exported,
            partitioner=[XnnpackPartitioner()],
            constant_methods=methods,
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        del exported
        done = edge.to_executorch()
    return PTEFile(done.executorch_program, done._emitter_output.mutable_data, done._named_data)


def write(program: PTEFile, constants: Mapping[str, Constant], out: BinaryIO) -> None:
    """The program with what its names stand for, each of which is read when its turn has come."""
    stands_for = {name.encode(): Streamed(constant) for name, constant in constants.items()}
    for buffer in program.program.constant_buffer:
        buffer.storage = stands_for.get(buffer.storage, buffer.storage)
    if program.named_data is not None:
        program.named_data.buffers = [stands_for.get(buffer, buffer) for buffer in program.named_data.buffers]
    serialize_pte_binary(program, extract_delegate_segments=True).write_to_file(out)


@contextlib.contextmanager
def names_for_bytes(constants: Mapping[str, Constant]) -> Iterator[None]:
    """Within, ExecuTorch puts a constant's name where it would have copied its bytes, and looks at no scale's value."""
    names = {name.replace(".", "__"): name for name in constants}  # by buffer
    index_of, params_of, value_of = (
        NodeVisitor.get_serialized_buffer_index,
        NodeVisitor.get_quant_params,
        _Emitter._tensor_spec_to_evalue,
    )

    def name_of(visitor: Any, node: Any) -> str | None:
        program = visitor.exported_program
        return names.get(get_tensor_name(program, node)) if is_param_node(program, node) else None

    def add(visitor: Any, graph: Any, name: str) -> int:
        graph.constant_data.append(schema.ConstantDataOffset(offset=NOWHERE, size=constants[name].size, named_key=name))
        visitor._named_data_store.add_named_data(name, name.encode(), CONSTANT_TENSOR_ALIGNMENT)
        return len(graph.constant_data) - 1

    def index(visitor: Any, tensor: Any, graph: Any, ids: Any, nhwc: bool, swap: bool, params: Any, *more: Any) -> int:
        name = name_of(visitor, tensor if params is None else params.q_input)
        return index_of(visitor, tensor, graph, ids, nhwc, swap, params, *more) if name is None else add(visitor, graph, name)

    def scales(visitor: Any, params: Any, graph: Any, tag: str | None = None) -> Any:
        name = name_of(visitor, params.q_input) if params.per_channel else None
        if name is None:
            return params_of(visitor, params, graph, tag)
        place = add(visitor, graph, name.removesuffix("codes") + "scale")
        held = {"scale": [], "channel_dim": params.axis, "scale_buffer_idx": place, "num_scales": params.scale.numel()}
        if params.per_channel_group:
            return schema.PerChannelGroupQuant(group_size=params.group_size, **held)
        return schema.PerChannelQuant(**held)

    def value(emitter: Any, spec: Any, tag: str | None = None) -> Any:
        name = names.get(emitter.exported_program.graph_signature.inputs_to_buffers.get(emitter.node.name))
        if name is None:
            return value_of(emitter, spec, tag)
        return EValue(make_tensor_value(emitter._save_new_const_tensor(spec, name.encode(), name), None, spec))

    with (
        mock.patch.object(NodeSource, "__init__", brief),
        mock.patch.object(_Emitter, "_tensor_spec_to_evalue", value),
        mock.patch.multiple(NodeVisitor, get_serialized_buffer_index=index, get_quant_params=scales),
        mock.patch.multiple(op_quant_dequant, validate_quant_scales=mock.DEFAULT, validate_quant_zeropoints=mock.DEFAULT),
        mock.patch.object(XnnpackBackend, "copy_exported_program_for_preprocess", shared),
    ):
        yield


def brief(source: NodeSource, *node_and_pass: Any) -> None:
    """A node's origin without all that it went through, which every pass would copy for every node."""
    describe(source, *node_and_pass)
    if source.from_node:
        source.from_node = source.from_node[-1].from_node or source.from_node


def shared(program: ExportedProgram, specs: object) -> ExportedProgram:
    """A copy that has the same tensors: fake ones cannot be copied."""
    return copy.deepcopy(program, {id(tensor): tensor for tensor in program.state_dict.values()})
