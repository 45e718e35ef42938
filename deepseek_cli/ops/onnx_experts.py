"""Routing and experts as ONNX Runtime computes them: QMoE over our own codes, or expert by expert where it cannot hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import onnx_ir as ir
import torch
from torch import Tensor

from deepseek_cli.formats.nbits import NBits, interleave, stacked_block, to_nbits
from deepseek_cli.ops import GateSpec
from deepseek_cli.tensors import QuantizedTensor, Weight

if TYPE_CHECKING:
    from deepseek_cli.ops.onnx_ops import OnnxOps

CORRECTION = "e_score_correction_bias"
BOOL, FLOAT = ir.DataType.BOOL, ir.DataType.FLOAT


class Routes(NamedTuple):
    """float32 [tokens, experts] each. The best of `choice` are taken; they count as `scores` say, before the gate's scale."""

    choice: ir.Value
    scores: ir.Value


def route(ops: OnnxOps, x: ir.Value, name: str, spec: GateSpec) -> Routes:
    """DeepSeek-V2's gates (arXiv 2405.04434, section 2.2) and V3's (arXiv 2412.19437, equations 12 to 16), in float32.

    x [batch, length, hidden]
    """
    node = ops.graph.node
    weight = ops.graph.constant(f"{name}.weight", ops._values(name, "the choice of experts is made in float32"))
    rows = node("Reshape", [node("FusedMatMul", [x, weight], name, weights=name, transB=1), ops._integers(-1, spec.experts)])
    ops._done(name)
    scores = node("Sigmoid", [rows]) if spec.scoring == "sigmoid" else node("Softmax", [rows], axis=-1)
    choice = scores
    if spec.corrected:
        choice = node("Add", [scores, correction(ops, name)], f"{name}.corrected")
    return Routes(within_groups(ops, choice, spec) if spec.groups > 1 else choice, scores)


def correction(ops: OnnxOps, name: str) -> ir.Value:
    bias = ops.tensors[f"{name}.{CORRECTION}"].read()
    assert isinstance(bias, torch.Tensor)
    return ops.graph.constant(f"{name}.{CORRECTION}", bias.float())


def within_groups(ops: OnnxOps, choice: ir.Value, spec: GateSpec) -> ir.Value:
    """`choice` with -inf for the experts of all but the best groups."""
    node, integers = ops.graph.node, ops._integers
    grouped = node("Reshape", [choice, integers(-1, spec.groups, spec.experts // spec.groups)])
    best, _ = ops.graph.outputs_of("TopK", [grouped, integers(2 if spec.corrected else 1)], 2)
    group = node("ReduceSum", [best, integers(2)], keepdims=0)  # [tokens, groups]
    _, chosen = ops.graph.outputs_of("TopK", [group, integers(spec.top_groups)], 2)
    kept = one_hot(ops, chosen, spec.groups)
    masked = node("Where", [node("Unsqueeze", [kept, integers(2)]), grouped, ops._floats(-torch.inf)])
    return node("Reshape", [masked, integers(-1, spec.experts)])


def one_hot(ops: OnnxOps, chosen: ir.Value, among: int) -> ir.Value:
    """chosen int64 [tokens, k] to bool [tokens, among]"""
    node = ops.graph.node
    every = node("Unsqueeze", [chosen, ops._integers(2)])
    hits = node("Equal", [every, ops.graph.constant(f"range.{among}", torch.arange(among))])  # [tokens, k, among]
    return node("Cast", [node("ReduceMax", [node("Cast", [hits], to=FLOAT), ops._integers(1)], keepdims=0)], to=BOOL)


def mixture(ops: OnnxOps, x: ir.Value, routes: Routes, name: str, spec: GateSpec) -> ir.Value:
    """x [batch, length, hidden]"""
    block = stacked_block(read_one_by_one(ops, name, spec))
    return qmoe(ops, x, routes, name, spec, block) if block else one_by_one(ops, x, routes, name, spec)


def read_one_by_one(ops: OnnxOps, name: str, spec: GateSpec) -> Iterator[Weight]:
    for part in parts_of(name, spec):
        ref = ops.tensors[f"{part}.weight"]
        yield ref.read()
        ref.release()


def parts_of(name: str, spec: GateSpec) -> Iterator[str]:
    return (f"{name}.{expert}.{part}_proj" for expert in range(spec.experts) for part in ("gate", "up", "down"))


def qmoe(ops: OnnxOps, x: ir.Value, routes: Routes, name: str, spec: GateSpec, block: int) -> ir.Value:
    """All experts in one operator, with our codes. It drops what counts less than 1e-8."""
    stack = Stack(ops, name, spec, block)
    first, second = stack.write("fc1", ("gate", "up")), stack.write("fc2", ("down",))
    scores = routes.scores
    if spec.scale != 1.0 and not spec.renormalize:
        scores = ops.graph.node("Mul", [scores, ops._floats(spec.scale)])
    y = ops.graph.node(
        "QMoE", [x, routes.choice, *first[:2], None, *second[:2], None, *[None] * 3, first[2], second[2], None, scores], name,
        weights=name, k=spec.top_k, expert_weight_bits=stack.bits, block_size=block, accuracy_level=ops.accuracy_level,
        activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0,
        normalize_routing_weights=int(spec.renormalize),
    )  # fmt: skip
    ops._done(*parts_of(name, spec))
    return ops.graph.node("Mul", [y, ops._floats(spec.scale)]) if spec.scale != 1.0 and spec.renormalize else y


class Stack:
    """The weights of all experts as QMoE wants them, written expert by expert."""

    def __init__(self, ops: OnnxOps, name: str, spec: GateSpec, block: int) -> None:
        self.ops, self.name, self.experts, self.block = ops, name, spec.experts, block
        self.bits = self._read(0, "down").bits

    def write(self, label: str, parts: Sequence[str]) -> list[ir.Value | None]:
        """codes uint8 [experts, out, in * bits / 8], scales float32 [experts, out, blocks], zero points where there are any"""
        codes = self._stream(f"{self.name}.{label}.codes", parts, lambda w: w.packed.flatten(1))
        scales = self._stream(f"{self.name}.{label}.scales", parts, lambda w: w.scale)
        if self._read(0, parts[0]).zero is None:
            return [codes, scales, None]
        return [codes, scales, self._stream(f"{self.name}.{label}.zeros", parts, lambda w: w.zero)]

    def _stream(self, label: str, parts: Sequence[str], pick: Callable[[NBits], Any]) -> ir.Value:
        def each() -> Iterator[Tensor]:
            for expert in range(self.experts):
                rows = [pick(self._read(expert, part)) for part in parts]
                yield interleave(*rows) if len(rows) > 1 else rows[0]
                for part in parts:
                    self.ops.tensors[self._weight(expert, part)].release()

        shape = pick(self._read(0, parts[0])).shape
        return self.ops.graph.stream(label, each(), (self.experts, len(parts) * shape[0], *shape[1:]))

    def _read(self, expert: int, part: str) -> NBits:
        weight = self.ops.tensors[self._weight(expert, part)].read()
        assert isinstance(weight, QuantizedTensor)
        return to_nbits(weight, self.block)

    def _weight(self, expert: int, part: str) -> str:
        return f"{self.name}.{expert}.{part}_proj.weight"


def one_by_one(ops: OnnxOps, x: ir.Value, routes: Routes, name: str, spec: GateSpec) -> ir.Value:
    """Each expert on its own tokens, of which there may be none."""
    node, integers = ops.graph.node, ops._integers
    shape = node("Shape", [x])
    tokens = node("Reshape", [x, node("Concat", [integers(-1), node("Shape", [x], start=2)], axis=0)])
    _, chosen = ops.graph.outputs_of("TopK", [routes.choice, integers(spec.top_k)], 2)
    weights = node("GatherElements", [routes.scores, chosen], axis=1)
    if spec.renormalize:
        weights = node("Div", [weights, node("ReduceSum", [weights, integers(1)], keepdims=1)])
    if spec.scale != 1.0:
        weights = node("Mul", [weights, ops._floats(spec.scale)])
    total = node("Mul", [tokens, ops._floats(0.0)])
    for expert in range(spec.experts):
        mine = node("Equal", [chosen, integers(expert)])
        places = node("NonZero", [mine])  # [2, tokens of this expert]: token, place
        token = node("Gather", [places, integers(0)], axis=0)
        token = node("Squeeze", [token, integers(0)])
        factor = node("GatherND", [weights, node("Transpose", [places])])
        part = f"{name}.{expert}"
        y = ops.gated_mlp(node("Gather", [tokens, token], axis=0), f"{part}.gate_proj", f"{part}.up_proj", f"{part}.down_proj")
        y = node("Mul", [y, node("Unsqueeze", [factor, integers(1)])])
        total = node("ScatterND", [total, node("Unsqueeze", [token, integers(1)]), y], reduction="add")
    return node("Reshape", [total, shape])
