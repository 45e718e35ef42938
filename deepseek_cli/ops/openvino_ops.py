"""The interpreter that writes OpenVINO IR: a stateful decoder of standard operators, whose weights are our bits.

Inputs, the KV cache's variables and the attention have the form that openvino_genai looks for: it replaces what it finds by
paged attention. Norms, rotary embeddings and weights are written as OpenVINO's plugins recognise them, to be fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats.openvino import Held, hold
from deepseek_cli.ops import Architecture, AttentionSpec, Rope, forward
from deepseek_cli.ops.openvino_graph import Graph, Value
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.tensors import TensorRef, dense

MASKED = -65504.0  # finite, so that a row of padding has no NaN to pass on; float16 holds it, too
BROADCAST, TRANSPOSED = {"auto_broadcast": "numpy"}, {"transpose_a": "false", "transpose_b": "true"}


class OpenvinoOps:
    """`dense_fallbacks` lists quantized tensors that are written as float16, with the reason."""

    def __init__(self, graph: Graph, tensors: Mapping[str, TensorRef], reporter: Reporter = SILENT) -> None:
        self.graph, self.tensors, self.reporter = graph, tensors, reporter
        self.dense_fallbacks: list[tuple[str, str]] = []
        self.tokens = graph.input("input_ids", "i64", 2)
        self.attention_mask = graph.input("attention_mask", "i64", 2)
        self.positions = graph.input("position_ids", "i64", 2)
        self.beams = graph.input("beam_idx", "i32", 1)
        self.weights: dict[str, Value] = {}
        self.rotary: dict[Rope, tuple[Value, Value]] = {}
        self.masked: Value | None = None
        self.written_bytes, self.size_bytes = 0, sum(ref.size_bytes for ref in tensors.values())

    def embed(self, tokens: Value, name: str) -> Value:
        return self._gather(self._weight(name), tokens)

    def linears(self, x: Value, names: Sequence[str]) -> list[Value]:
        return [self.linear(x, name) for name in names]

    def linear(self, x: Value, name: str) -> Value:
        y = self.graph.node("MatMul", [x, self._weight(name)], name=name, **TRANSPOSED)
        return self._binary("Add", y, self._vector(f"{name}.bias")) if f"{name}.bias" in self.tensors else y

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        graph = self.graph
        squares = self._binary("Power", x, graph.scalar(2.0))
        mean = graph.node("ReduceMean", [squares, graph.integers(-1)], keep_dims="true")
        root = graph.node("Sqrt", [self._binary("Add", mean, graph.scalar(eps))])
        normed = self._binary("Multiply", x, graph.node("Divide", [graph.scalar(1.0), root], m_pythondiv="true", **BROADCAST))
        return self._binary("Multiply", self._vector(f"{name}.weight"), normed)

    def head_norm(self, x: Value, name: str, heads: int, eps: float) -> Value:
        return self._reshape(self.rms_norm(self._reshape(x, 0, 0, heads, -1), name, eps), 0, 0, -1)

    def attention(self, q: Value, k: Value, v: Value, layer: int, spec: AttentionSpec) -> Value:
        q, k = (self._rotate(self._heads(t, n, spec), spec) for t, n in ((q, spec.heads), (k, spec.kv_heads)))
        v = self._heads(v, spec.kv_heads, spec)
        k, v = (self._cached(t, f"past_key_values.{layer}.{kind}", spec) for t, kind in ((k, "key"), (v, "value")))
        inputs = [q, k, v, self._mask(), self.graph.scalar(spec.scale)]
        y = self.graph.node("ScaledDotProductAttention", inputs, name=f"layers.{layer}.attention", causal="false")
        return self._reshape(self._transpose(y, 0, 2, 1, 3), 0, 0, spec.heads * spec.head_dim)

    def gated_mlp(self, x: Value, gate: str, up: str, down: str) -> Value:
        activated = self.graph.node("Swish", [self.linear(x, gate)])
        return self.linear(self._binary("Multiply", activated, self.linear(x, up)), down)

    def add(self, x: Value, y: Value) -> Value:
        return self._binary("Add", x, y)

    def head(self, x: Value, name: str) -> Value:
        """Of all positions: what runs the graph cuts those it needs out of `x` (openvino_genai does so by itself)."""
        logits = self.graph.node("MatMul", [x, self._weight(name)], name=name, output="logits", **TRANSPOSED)
        self.graph.outputs_of("Result", [logits], 0, name="logits")
        return logits

    def latent_attention(self, *_: Any) -> NoReturn:
        raise _refused("latent attention")

    def index(self, *_: Any) -> NoReturn:
        raise _refused("sparse attention")

    def route(self, *_: Any) -> NoReturn:
        raise _refused("experts")

    def _heads(self, x: Value, heads: int, spec: AttentionSpec) -> Value:
        """[batch, heads, length, head_dim]"""
        return self._transpose(self._reshape(x, 0, 0, heads, spec.head_dim), 0, 2, 1, 3)

    def _rotate(self, x: Value, spec: AttentionSpec) -> Value:
        half = spec.head_dim // 2
        cos, sin = self._angles(spec.rope)
        last = self.graph.scalar(3, torch.int64)  # plugins do not recognise the rotation where this is -1
        low, high = self.graph.outputs_of("VariadicSplit", [x, last, self.graph.integers(half, half)], 2)
        turned = self.graph.node("Concat", [self._binary("Multiply", high, self.graph.scalar(-1.0)), low], axis="-1")
        return self._binary("Add", self._binary("Multiply", x, cos), self._binary("Multiply", turned, sin))

    def _angles(self, rope: Rope) -> tuple[Value, Value]:
        """cos and sin, float32 [batch, 1, length, head_dim]"""
        if rope not in self.rotary:
            graph, number = self.graph, len(self.rotary)
            inverse = torch.tensor(rope.inverse_frequency, dtype=torch.float32)
            wide = self._to(graph.node("Unsqueeze", [self.positions, graph.integers(-1)]), "f32")
            once = self._binary("Multiply", wide, graph.constant(f"rotary.{number}", inverse))
            angle = graph.node("Unsqueeze", [graph.node("Concat", [once, once], axis="-1"), graph.integers(1)])
            cos, sin = (self._scaled(graph.node(kind, [angle]), rope.factor) for kind in ("Cos", "Sin"))
            self.rotary[rope] = cos, sin
        return self.rotary[rope]

    def _scaled(self, x: Value, factor: float) -> Value:
        return x if factor == 1.0 else self._binary("Multiply", x, self.graph.scalar(factor))

    def _cached(self, x: Value, name: str, spec: AttentionSpec) -> Value:
        """Append x to the variable `name`; all of it, each head once for every query: [batch, heads, total, head_dim]."""
        graph = self.graph
        batch = self._gather(self._shape(self.tokens), graph.integers(0))
        shape = graph.node("Concat", [batch, graph.integers(spec.kv_heads, 0, spec.head_dim)], axis="0")
        empty = graph.node("Broadcast", [graph.scalar(0.0), shape], mode="numpy")
        variable = {"variable_id": name, "variable_type": "f32", "variable_shape": f"?,{spec.kv_heads},?,{spec.head_dim}"}
        past = self._gather(graph.node("ReadValue", [empty], name=name, **variable), self.beams)
        present = graph.node("Concat", [past, x], axis="-2")
        graph.node("Assign", [present], name=f"{name}.present", variable_id=name)
        groups = spec.heads // spec.kv_heads
        if groups == 1:
            return present
        outer, inner = (self._gather(self._shape(present), graph.integers(*axes)) for axes in ((0, 1), (2, 3)))
        repeated = graph.node("Concat", [outer, graph.integers(groups), inner], axis="0")
        spread = graph.node("Broadcast", [graph.node("Unsqueeze", [present, graph.integers(2)]), repeated], mode="bidirectional")
        return self._reshape(spread, 0, spec.heads, -1, spec.head_dim)

    def _mask(self) -> Value:
        """float32 [batch, 1, new, total]: 0 where a query may attend, to what is no padding and does not lie behind it."""
        if self.masked is None:
            graph = self.graph
            total, new = self._length(self.attention_mask), self._length(self.tokens)
            keys = self._range(graph.scalar(0, torch.int64), total)
            queries = graph.node("Unsqueeze", [self._range(self._binary("Subtract", total, new), total), graph.integers(1)])
            seen = graph.node("LessEqual", [keys, queries], "boolean", **BROADCAST)
            real = graph.node("Unsqueeze", [self._to(self.attention_mask, "boolean"), graph.integers(1, 2)])
            both = graph.node("LogicalAnd", [seen, real], **BROADCAST)
            self.masked = graph.node("Select", [both, graph.scalar(0.0), graph.scalar(MASKED)], "f32", **BROADCAST)
        return self.masked

    def _length(self, x: Value) -> Value:
        """The second extent of x, a scalar."""
        return self._gather(self._shape(x), self.graph.scalar(1, torch.int64))

    def _shape(self, x: Value) -> Value:
        return self.graph.node("ShapeOf", [x], "i64", output_type="i64")

    def _range(self, start: Value, stop: Value) -> Value:
        return self.graph.node("Range", [start, stop, self.graph.scalar(1, torch.int64)], output_type="i64")

    def _weight(self, name: str) -> Value:
        """float32 [out, in], as it comes out of its codes; a tied head shares the embedding's."""
        if name not in self.weights:
            ref = self.tensors[f"{name}.weight"]
            held = hold(ref)
            if held.reason:
                self.dense_fallbacks.append((ref.name, held.reason))
            self.weights[name] = self._decompressed(f"{name}.weight", held)
            ref.release()
            self.written_bytes += ref.size_bytes
            self.reporter.progress("write", self.written_bytes, self.size_bytes, "B")
        return self.weights[name]

    def _decompressed(self, name: str, held: Held) -> Value:
        graph = self.graph
        x = graph.constant(name, held.codes, held.dtype, held.grouped)
        if held.scale is None:
            return self._to(x, "f32")
        scale = graph.constant(f"{name}/scale", held.scale)
        x = self._to(x, scale.dtype)
        if held.zero is not None:
            zero = graph.constant(f"{name}/zero_point", held.zero, held.dtype, held.scale.shape)
            x = self._binary("Subtract", x, self._to(zero, scale.dtype))
        x = self._binary("Multiply", x, scale)
        return self._to(x if held.grouped == held.shape else self._reshape(x, *held.shape), "f32")

    def _vector(self, name: str) -> Value:
        """float32; a norm's weight, or a bias"""
        return self.graph.constant(name, dense(self.tensors[name].read()).float())

    def _to(self, x: Value, dtype: str) -> Value:
        return x if x.dtype == dtype else self.graph.node("Convert", [x], dtype, destination_type=dtype)

    def _binary(self, kind: str, x: Value, y: Value) -> Value:
        return self.graph.node(kind, [x, y], **BROADCAST)

    def _gather(self, x: Value, rows: Value) -> Value:
        return self.graph.node("Gather", [x, rows, self.graph.scalar(0, torch.int64)], batch_dims="0")

    def _reshape(self, x: Value, *shape: int) -> Value:
        return self.graph.node("Reshape", [x, self.graph.integers(*shape)], special_zero="true")

    def _transpose(self, x: Value, *order: int) -> Value:
        return self.graph.node("Transpose", [x, self.graph.integers(*order)])


def _refused(what: str) -> ModelUnsupported:
    return ModelUnsupported("OpenVINO bundles cannot hold {what} yet.", hint="Deploy it with --target cpu.", what=what)


def emit(
    architecture: Architecture, config: Any, tensors: Mapping[str, TensorRef], path: Path, reporter: Reporter = SILENT
) -> list[tuple[str, str]]:
    """Write the graph `path` and its .bin file. Gives back the quantized tensors that became dense, each with the reason.

    Raises ModelUnsupported.
    """
    with Graph(path) as graph:
        ops = OpenvinoOps(graph, tensors, reporter)
        forward(ops, architecture, config, ops.tokens)
    reporter.progress("write", ops.size_bytes, ops.size_bytes, "B")
    return ops.dense_fallbacks
