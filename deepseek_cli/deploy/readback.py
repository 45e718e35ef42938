"""Weights as an ONNX bundle's files hold them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from deepseek_cli.formats.mapped import MappedFile
from deepseek_cli.formats.nbits import NBits, from_nbits
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.drafting import DRAFT
from deepseek_cli.ops.onnx_experts import CORRECTION
from deepseek_cli.ops.onnx_half import SIGNED
from deepseek_cli.ops.onnx_latent import KEYS, VALUES, join_expansion
from deepseek_cli.ops.onnx_low_rank import DOWN, UP
from deepseek_cli.ops.onnx_tokens import SIGN
from deepseek_cli.ops.token_rounding import CODES, PRODUCT, SCALE
from deepseek_cli.runtime.onnx_session import GRAPH
from deepseek_cli.tensors import CorrectedTensor, QuantizedTensor, Weight, take_rows

DTYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT4: torch.uint8,  # two a byte
}


def read_back(handle: ModelHandle, folder: Path) -> Iterator[tuple[str, Weight]]:
    """Weights of an ONNX bundle by on-disk name, those of its second graph too: what this shares with the first is read once."""
    yield from GraphWeights(folder / GRAPH).each(handle)
    if (folder / DRAFT).exists():
        drafting = handle.draft_weights
        yield from ((name, weight) for name, weight in GraphWeights(folder / DRAFT).each(handle) if name in drafting)


def left_out(handle: ModelHandle) -> set[str]:
    """Weights that no bundle holds: the indexer's, which chooses all keys as long as there are no more than its `top_k`."""
    return {name for name in (*handle.weights, *handle.draft_weights) if ".indexer." in name}


class GraphWeights:
    """The weights of a graph by on-disk name, as its nodes say where their rows came from."""

    def __init__(self, path: Path) -> None:
        self.graph = onnx.load(path, load_external_data=False).graph
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        files = {entry.value for t in self.initializers.values() for entry in t.external_data if entry.key == "location"}
        self.data = {file: MappedFile(path.with_name(file)) for file in files}

    def each(self, handle: ModelHandle) -> Iterator[tuple[str, Weight]]:
        """`handle` tells how many rows each weight has."""
        for node in self.graph.node:
            origin = next((p.value for p in node.metadata_props if p.key == "weights"), "")
            if node.op_type == "QMoE":
                yield from self._experts(node, origin)
                continue
            start = 0
            for name in filter(None, origin.split(",")):
                stop = start + handle.tensors[f"{name}.weight"].shape[0]
                for kind, weight in self._held(node, name, handle):
                    yield f"{name}.{kind}", take_rows(weight, slice(start, stop))
                start = stop
        yield from self._alone()

    def _alone(self) -> Iterator[tuple[str, Weight]]:
        """What is known by its initializer's name: the gates' corrections, and the weights that latents are expanded with."""
        for name in self.initializers:
            stem, _, kind = name.rpartition(".")
            if kind == KEYS:
                keys, values = (tensor(self._tensor(f"{stem}.{part}")) for part in (KEYS, VALUES))
                yield f"{stem}.weight", join_expansion(keys, values)
            elif kind == CORRECTION:
                yield name, tensor(self._tensor(name))

    def _experts(self, node: Any, name: str) -> Iterator[tuple[str, Weight]]:
        settings = {a.name: a.i for a in node.attribute}
        settings["bits"] = settings["expert_weight_bits"]
        held = [self._tensor(name) for name in node.input]
        first, second = [held[i] for i in (2, 3, 11)], [held[i] for i in (5, 6, 12)]  # codes, scales, zero points
        parts = (("gate", first, slice(0, None, 2)), ("up", first, slice(1, None, 2)), ("down", second, slice(None)))
        for expert in range(len(tensor(first[0]))):
            for part, stack, rows in parts:  # as `nbits.interleave` lays them
                codes, scale, zero = (None if t is None else t[expert, rows] for t in stack)
                inputs = tensor(codes).shape[1] * 8 // settings["bits"]
                yield f"{name}.{expert}.{part}_proj.weight", quantized(codes, scale, zero, settings, inputs)

    def _held(self, node: Any, name: str, handle: ModelHandle) -> Iterator[tuple[str, Weight]]:
        read = lambda i: self._tensor(node.input[i]) if i < len(node.input) and node.input[i] else None  # noqa: E731
        found = dict(enumerate(map(read, range(len(node.input)))))
        settings = {a.name: a.i for a in node.attribute}
        if node.op_type == "MatMulNBits":
            yield "weight", self._corrected(node, quantized(found[1], found[2], found.get(3), settings, settings["K"]))
            if found.get(5) is not None:
                yield "bias", tensor(found[5])
        elif node.op_type == PRODUCT:
            yield "weight", self._corrected(node, turned_back(tensor(found[CODES]), tensor(found[SCALE])))
        elif node.op_type == "GatherBlockQuantized":
            rows = tensor(found[0])
            yield "weight", quantized(rows, found[2], found.get(3), settings, rows.shape[1] * 8 // settings["bits"])
        elif node.op_type == "DequantizeLinear":
            yield "weight", QuantizedTensor(tensor(found[0]) ^ SIGNED, tensor(found[1]).float(), 4, settings["block_size"])
        elif node.op_type == "Gather" and tensor(found[0]).dtype == torch.uint8:
            scale, zero = (self._tensor(f"{name}.{part}") for part in ("scales", "zeros"))
            rows, inputs = tensor(found[0]), handle.tensors[f"{name}.weight"].shape[1]
            settings = {"bits": rows.shape[1] * 8 // inputs, "block_size": inputs // tensor(scale).shape[1]}
            yield "weight", quantized(rows, scale, zero, settings, inputs)
        else:
            last = max(i for i, value in found.items() if value is not None)
            yield "bias" if node.op_type == "Add" else "weight", tensor(found[last])

    def _corrected(self, node: Any, rounded: QuantizedTensor) -> Weight:
        """With what the graph adds beside the product `node`; of a fused one, rows have zeros for other weights' corrections."""
        up, down = (self._tensor(f"{node.name}.{part}") for part in (UP, DOWN))
        return rounded if up is None or down is None else CorrectedTensor(rounded, up, down)

    def _tensor(self, name: str) -> Tensor | None:
        proto = self.initializers.get(name)
        if proto is None:
            return None
        if not proto.external_data:
            return torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())
        where = {entry.key: entry.value for entry in proto.external_data}
        *outer, last = proto.dims
        width = last // 2 if proto.data_type == onnx.TensorProto.INT4 else last
        return self.data[where["location"]].tensor(int(where["offset"]), (*outer, width), DTYPES[proto.data_type])


def quantized(
    codes: Tensor | None, scale: Tensor | None, zero: Tensor | None, settings: dict[str, int], inputs: int
) -> QuantizedTensor:
    codes, scale, block = tensor(codes), tensor(scale).float(), settings["block_size"]
    packed = codes.reshape(len(codes), scale.shape[1], -1)
    return from_nbits(NBits(packed, scale, zero, settings["bits"], block, inputs))


def turned_back(codes: Tensor, scale: Tensor) -> QuantizedTensor:
    """From int8 [in, out] and float32 [out]"""
    rows = codes.T.contiguous().view(torch.uint8) ^ SIGN
    return QuantizedTensor(rows, scale[:, None], 8, rows.shape[1])


def tensor(found: Tensor | None) -> Tensor:
    assert found is not None
    return found
