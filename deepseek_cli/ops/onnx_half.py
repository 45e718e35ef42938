"""Graphs for GPUs: activations, caches and scales in float16, and for TensorRT operators that ONNX itself has.

ONNX Runtime's CUDA provider has the operators of `OnnxOps`, but its attention takes no float32. TensorRT knows few of them: its
importer wants a DequantizeLinear in front of each product, and of ONNX Runtime's own operators the provider for RTX cards takes
GroupQueryAttention alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats.nbits import Coded, NBits, to_nbits, unfit
from deepseek_cli.ops import Rope
from deepseek_cli.ops.onnx_graph import Graph, Rows
from deepseek_cli.ops.onnx_ops import OnnxOps
from deepseek_cli.ops.onnx_weights import FLOAT
from deepseek_cli.tensors import CorrectedTensor, QuantizedTensor, TensorRef, Weight

FLOAT16, INT4 = ir.DataType.FLOAT16, ir.DataType.INT4
SIGNED = 0x88  # turns two unsigned codes of a byte, which mean code - 8, into two's complement, and back
BLOCKS = (128, 64)  # that TensorRT's int4 products have: docs.nvidia.com/deeplearning/tensorrt, "Quantization Schemes"


class HalfOps(OnnxOps):
    """For the CUDA provider. Logits alone are float32."""

    dtype = FLOAT16

    def __init__(self, graph: Graph, tensors: Mapping[str, TensorRef], context: int, **options: Any) -> None:
        super().__init__(graph, tensors, context, accuracy_level=0, kv="fp16", **options)

    def _unfit(self, weight: Coded) -> str:
        if reason := super()._unfit(weight):
            return reason
        assert isinstance(weight, QuantizedTensor)
        return "" if torch.equal(weight.scale.half().float(), weight.scale) else "its scales do not fit float16"

    def _cast(self, values: Tensor, name: str) -> Tensor:
        half = values.half()
        if not half.isfinite().all():
            raise ModelUnsupported(
                "{tensor} holds values that float16 does not.",
                hint="Deploy the model with --target vllm: it keeps them in bfloat16.",
                tensor=name,
            )
        return half

    def _rotary(self, rope: Rope) -> list[ir.Value]:
        """Cast where the graph is loaded, so that the same graph in float32 turns by the model's own angles."""
        if rope not in self.rotary:
            self.rotary[rope] = [self.graph.node("Cast", [table], to=FLOAT16) for table in super()._rotary(rope)]
        return self.rotary[rope]

    def _float32(self, x: ir.Value) -> ir.Value:
        return self.graph.node("Cast", [x], to=FLOAT)


class QdqOps(HalfOps):
    """For TensorRT. Logits are those of every position: a slice whose start is an input would be one more shape to plan for."""

    def embed(self, tokens: Any, name: str) -> ir.Value:
        weight = self._values(name, "TensorRT looks nothing up in packed rows")
        x = self.graph.node("Gather", [self.graph.constant(f"{name}.weight", weight), tokens], f"{name}.gather", weights=name)
        self._done(name)
        return x

    def rms_norm(self, x: Any, name: str, eps: float) -> ir.Value:
        return self._norm(self._value(x), name, eps)

    def _norm(self, x: ir.Value, name: str, eps: float) -> ir.Value:
        """In float32, as the fused operators do: squares leave float16 behind."""
        wide = self._float32(x)
        squares = self.graph.node("ReduceMean", [self.graph.node("Mul", [wide, wide]), self._integers(-1)], keepdims=1)
        root = self.graph.node("Sqrt", [self.graph.node("Add", [squares, self._floats(eps)])])
        normed = self.graph.node("Cast", [self.graph.node("Div", [wide, root])], to=FLOAT16)
        return self.graph.node("Mul", [normed, self._vector(name)], name, weights=name)

    def _silu(self, x: ir.Value, name: str) -> ir.Value:
        return self.graph.node("Mul", [x, self.graph.node("Sigmoid", [x])], name)

    def _kept(self, x: Any) -> ir.Value:
        return self._value(x)

    def _weight(self, name: str) -> Rows | NBits:
        """What was looked up is dense already: a tied head takes the same rows."""
        return self._values(name) if f"{name}.weight" in self.graph.initializers else super()._weight(name)

    def _codes(self, weight: Weight) -> Weight:
        return weight

    def _unfit(self, weight: Coded) -> str:
        return super()._unfit(weight) or unfit_for_tensorrt(weight)

    def _nbits(self, weight: QuantizedTensor) -> NBits:
        return to_nbits(weight, block_for_tensorrt(weight))

    def _product(self, x: Any, names: Sequence[str], weights: Sequence[Rows | NBits]) -> ir.Value:
        label, bias = ",".join(names), self._bias(names)
        if packed := [w for w in weights if isinstance(w, NBits)]:
            rows = self._dequantized(label, packed)
            turned = self.graph.node("Transpose", [rows], perm=[1, 0])
        else:
            rows = self.graph.constant(f"{label}.weight", *(w for w in weights if isinstance(w, Rows)))
            turned = self.graph.node("Transpose", [rows], f"{label}.turned", weights=label, perm=[1, 0])
        y = self.graph.node("MatMul", [self._value(x), turned], label)
        self._done(*names)
        return y if bias is None else self.graph.node("Add", [y, bias], f"{label}.biased", weights=label)

    def _dequantized(self, label: str, weights: Sequence[NBits]) -> ir.Value:
        """float16 [out, in]"""
        shape, block = (sum(map(len, weights)), weights[0].inputs), weights[0].block
        codes = self.graph.stream(f"{label}.codes", (w.packed ^ SIGNED for w in weights), shape, INT4)
        scale = self.graph.constant(f"{label}.scales", *(self._cast(w.scale, label) for w in weights))
        return self.graph.node("DequantizeLinear", [codes, scale], f"{label}.dense", weights=label, axis=1, block_size=block)


def unfit_for_tensorrt(weight: Weight) -> str:
    """Why TensorRT takes no product with these codes; "" where it does. Its importer checks scales and zero points."""
    if isinstance(weight, CorrectedTensor):
        return "TensorRT has no place for its low-rank correction"
    if not isinstance(weight, QuantizedTensor):
        return "its format has no counterpart in TensorRT"
    if reason := unfit(weight):
        return reason
    if weight.bits != 4:
        return "TensorRT has int4 products alone for weights whose inputs are not quantized"
    if weight.zero is not None:
        return "TensorRT takes no zero points"
    if not block_for_tensorrt(weight):
        return f"TensorRT has groups of {BLOCKS[0]} and {BLOCKS[1]}, which groups of {weight.group} cut"
    return "" if bool((weight.scale > 0).all()) else "TensorRT takes no scales below zero"


def block_for_tensorrt(weight: QuantizedTensor) -> int:
    """The largest of BLOCKS that no border of the weight's own groups cuts, or 0: scales can be repeated, not merged."""
    inputs = weight.shape[1]
    whole = math.gcd(min(weight.group, inputs), inputs)
    return next((block for block in BLOCKS if whole % block == 0), 0)
