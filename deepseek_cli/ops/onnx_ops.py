"""The interpreter that writes: a decoder graph of ONNX Runtime's own operators, whose weights are our bits.

Inputs and outputs carry the names that onnxruntime-genai knows; `num_logits_to_keep` has a default and may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats.nbits import NBits, to_nbits, unfit
from deepseek_cli.ops import Architecture, AttentionSpec, Rope, forward
from deepseek_cli.ops.onnx_graph import MICROSOFT, Graph
from deepseek_cli.ops.torch_ops import rope_table
from deepseek_cli.tensors import TensorRef, dense

INT64_MAX = (1 << 63) - 1
FLOAT, INT32, INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64


@dataclass(eq=False)
class Sum:
    """x + y, not written yet: the norm behind it computes both in one operator."""

    x: Any
    y: Any
    value: ir.Value | None = None


@dataclass(eq=False)
class Product:
    """Several linears over one input, as one operator; `sizes` are their output channels."""

    value: ir.Value
    sizes: list[int]
    split: Sequence[ir.Value] | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """One linear's share of a product, cut out only where it is needed alone."""

    product: Product
    index: int


class OnnxOps:
    """Values are graph values, or the lazy ones above.

    `context` positions get rotary tables. `accuracy_level` 4 lets MatMulNBits round its input to int8, 0 does not.
    `dense_fallbacks` lists quantized tensors that are written as float32, with the reason.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, TensorRef], context: int, accuracy_level: int = 4) -> None:
        self.graph, self.tensors, self.context, self.accuracy_level = graph, tensors, context, accuracy_level
        self.dense_fallbacks: list[tuple[str, str]] = []
        self.tokens = graph.input("input_ids", INT64, ["batch", "sequence"])
        self.mask = graph.input("attention_mask", INT64, ["batch", "total"])
        self.lengths: tuple[ir.Value, ir.Value] | None = None
        self.rotary: dict[Rope, list[ir.Value]] = {}

    def embed(self, tokens: Any, name: str) -> ir.Value:
        """[batch, length, hidden]. Its bytes serve a tied head as well."""
        weight = self._weight(name)
        if isinstance(weight, NBits) and weight.inputs % weight.block:
            weight = self._fall_back(name, f"its rows are no multiple of {weight.block}")
        if isinstance(weight, Tensor):
            return self.graph.node("Gather", [self.graph.constant(f"{name}.weight", weight), tokens], weights=name)
        codes, scale, zero = self._constants(name, [weight])
        rows = self.graph.alias(f"{name}.rows", codes, weight.packed.flatten(1).shape)
        return self.graph.node(
            "GatherBlockQuantized", [rows, tokens, scale, zero], domain=MICROSOFT, weights=name,
            bits=weight.bits, block_size=weight.block, gather_axis=0, quantize_axis=1,
        )  # fmt: skip

    def linears(self, x: Any, names: Sequence[str]) -> list[Any]:
        weights = [self._weight(name) for name in names]
        if len({w.layout if isinstance(w, NBits) else w.shape[1:] for w in weights}) > 1:
            return [self._product(x, [name], [weight]) for name, weight in zip(names, weights, strict=True)]
        product = Product(self._product(x, names, weights), [len(w) for w in weights])
        return [Part(product, i) for i in range(len(names))]

    def linear(self, x: Any, name: str) -> ir.Value:
        return self._product(x, [name], [self._weight(name)])

    def rms_norm(self, x: Any, name: str, eps: float) -> ir.Value:
        weight = self._vector(name)
        if isinstance(x, Sum) and x.value is None:
            normed, _, _, x.value = self.graph.nodes_of(
                "SkipSimplifiedLayerNormalization", [self._value(x.x), self._value(x.y), weight], 4, name, domain=MICROSOFT, epsilon=eps
            )
            return normed
        return self.graph.node("SimplifiedLayerNormalization", [self._value(x), weight], name, axis=-1, stash_type=1, epsilon=eps)

    def head_norm(self, x: Any, name: str, heads: int, eps: float) -> ir.Value:
        x = self.graph.node("Reshape", [self._value(x), self._integers(0, 0, heads, -1)])
        x = self.graph.node("SimplifiedLayerNormalization", [x, self._vector(name)], name, axis=-1, stash_type=1, epsilon=eps)
        return self.graph.node("Reshape", [x, self._integers(0, 0, -1)])

    def attention(self, q: Any, k: Any, v: Any, layer: int, spec: AttentionSpec) -> ir.Value:
        if spec.head_dim % 16:
            raise ModelUnsupported(
                "ONNX Runtime's attention needs a head_dim that is a multiple of 16; this model's is {head_dim}.",
                hint="Run the model folder itself instead of a bundle.", head_dim=spec.head_dim,
            )  # fmt: skip
        shape = ["batch", spec.kv_heads, "past", spec.head_dim]
        past = [self.graph.input(f"past_key_values.{layer}.{kind}", FLOAT, shape) for kind in ("key", "value")]
        y, *present = self.graph.nodes_of(
            "GroupQueryAttention", [*self._packed(q, k, v), *past, *self._lengths(), *self._rotary(spec.rope)], 3, f"attention.{layer}",
            domain=MICROSOFT, num_heads=spec.heads, kv_num_heads=spec.kv_heads, scale=spec.scale, do_rotary=1,
        )  # fmt: skip
        shape[2] = "total"
        for value, kind in zip(present, ("key", "value"), strict=True):
            self.graph.output(value, f"present.{layer}.{kind}", FLOAT, shape)
        return y

    def gated_mlp(self, x: Any, gate: str, up: str, down: str) -> ir.Value:
        g, u = map(self._value, self.linears(x, [gate, up]))
        silu = self.graph.node("Mul", [g, self.graph.node("Sigmoid", [g])])
        return self.linear(self.graph.node("Mul", [silu, u]), down)

    def add(self, x: Any, y: Any) -> Sum:
        return Sum(x, y)

    def head(self, x: Any, name: str) -> ir.Value:
        """The last `num_logits_to_keep` positions, 0 for all: a slice from -0 takes the whole."""
        keep = self.graph.input("num_logits_to_keep", INT64, [1], default=torch.zeros(1, dtype=torch.int64))
        start = self.graph.node("Neg", [keep])
        last = self.graph.node("Slice", [self._value(x), start, self._integers(INT64_MAX), self._integers(1)])
        logits = self.linear(last, name)
        self.graph.output(logits, "logits", FLOAT, ["batch", "kept", self.tensors[f"{name}.weight"].shape[0]], first=True)
        return logits

    def _value(self, x: Any) -> ir.Value:
        """The graph value of a lazy one, written where it was not yet."""
        if isinstance(x, Sum):
            x.value = x.value or self.graph.node("Add", [self._value(x.x), self._value(x.y)])
            return x.value
        if isinstance(x, Part):
            product = x.product
            if product.split is None:
                sizes = self._integers(*product.sizes)
                product.split = self.graph.nodes_of("Split", [product.value, sizes], len(product.sizes), axis=-1)
            return product.split[x.index]
        return x

    def _packed(self, q: Any, k: Any, v: Any) -> list[ir.Value | None]:
        """The attention's first three inputs: a product of all three stays whole."""
        if all(isinstance(t, Part) and t.product is q.product for t in (q, k, v)):
            return [q.product.value, None, None]
        return [self._value(t) for t in (q, k, v)]

    def _product(self, x: Any, names: Sequence[str], weights: Sequence[Tensor | NBits]) -> ir.Value:
        """x @ [rows of all weights]ᵀ + bias; the weights share one layout."""
        label, bias = ",".join(names), self._bias(names)
        first = weights[0]
        if isinstance(first, NBits):
            constants = self._constants(label, weights)
            return self.graph.node(
                "MatMulNBits", [self._value(x), *constants, None, bias], domain=MICROSOFT, weights=label,
                K=first.inputs, N=sum(map(len, weights)), bits=first.bits, block_size=first.block, accuracy_level=self.accuracy_level,
            )  # fmt: skip
        weight = self.graph.constant(f"{label}.weight", *weights)
        y = self.graph.node("FusedMatMul", [self._value(x), weight], domain=MICROSOFT, weights=label, transB=1)
        return y if bias is None else self.graph.node("Add", [y, bias])

    def _constants(self, label: str, weights: Sequence[NBits]) -> tuple[ir.Value, ir.Value, ir.Value | None]:
        codes = self.graph.constant(f"{label}.codes", *(w.packed for w in weights))
        scale = self.graph.constant(f"{label}.scales", *(w.scale for w in weights))
        zeros = [w.zero for w in weights if w.zero is not None]
        return codes, scale, self.graph.constant(f"{label}.zeros", *zeros) if zeros else None

    def _bias(self, names: Sequence[str]) -> ir.Value | None:
        if not any(f"{name}.bias" in self.tensors for name in names):
            return None
        parts = []
        for name in names:
            bias = self.tensors.get(f"{name}.bias")
            parts.append(dense(bias.read()).float() if bias else torch.zeros(self.tensors[f"{name}.weight"].shape[0]))
        return self.graph.constant(f"{','.join(names)}.bias", *parts)

    def _vector(self, name: str) -> ir.Value:
        return self.graph.constant(f"{name}.weight", dense(self.tensors[f"{name}.weight"].read()).float())

    def _weight(self, name: str) -> Tensor | NBits:
        weight = self.tensors[f"{name}.weight"].read()
        if isinstance(weight, Tensor):
            return weight.float()
        reason = unfit(weight)
        return self._fall_back(name, reason) if reason else to_nbits(weight)

    def _fall_back(self, name: str, reason: str) -> Tensor:
        self.dense_fallbacks.append((name, reason))
        return dense(self.tensors[f"{name}.weight"].read())

    def _lengths(self) -> tuple[ir.Value, ir.Value]:
        """seqlens_k int32 [batch], one less than each row's length, and the longest row's length, int32."""
        if self.lengths is None:
            counted = self.graph.node("ReduceSum", [self.mask, self._integers(1)], keepdims=0)
            last = self.graph.node("Cast", [self.graph.node("Sub", [counted, self._integers(1)])], to=INT32)
            total = self.graph.node("Gather", [self.graph.node("Shape", [self.mask]), self._integers(1)])
            self.lengths = last, self.graph.node("Cast", [self.graph.node("Squeeze", [total])], to=INT32)
        return self.lengths

    def _rotary(self, rope: Rope) -> list[ir.Value]:
        """cos and sin, float32 [context, head_dim / 2]"""
        if rope not in self.rotary:
            table = rope_table(rope, 0, self.context, torch.device("cpu"))
            number = len(self.rotary)
            self.rotary[rope] = [self.graph.constant(f"rotary.{number}.{kind}", t) for kind, t in zip(("cos", "sin"), table, strict=True)]
        return self.rotary[rope]

    def _integers(self, *numbers: int) -> ir.Value:
        return self.graph.constant(f"integers.{'.'.join(map(str, numbers))}", torch.tensor(numbers))


def emit(architecture: Architecture, config: Any, tensors: Mapping[str, TensorRef], path: Path, context: int) -> list[tuple[str, str]]:
    """Write `path` and its data file beside it; gives back the quantized tensors that became dense, each with the reason."""
    with Graph(path) as graph:
        ops = OnnxOps(graph, tensors, context)
        forward(ops, architecture, config, ops.tokens)
    return ops.dense_fallbacks
