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
from deepseek_cli.formats.nbits import NBits
from deepseek_cli.ops import Architecture, AttentionSpec, GateSpec, IndexSpec, LatentSpec, Rope, hidden_states
from deepseek_cli.ops.drafting import HIDDEN
from deepseek_cli.ops.onnx_experts import Routes, mixture, route
from deepseek_cli.ops.onnx_graph import ONE_FILE, DataFiles, Graph, Rows
from deepseek_cli.ops.onnx_latent import Step, latent_attention
from deepseek_cli.ops.onnx_lazy import Part, Product, Sum
from deepseek_cli.ops.onnx_low_rank import corrected
from deepseek_cli.ops.onnx_rows import gather_rows
from deepseek_cli.ops.onnx_tokens import IN_BLOCKS, has_row_scales, token_product
from deepseek_cli.ops.onnx_weights import FLOAT, WeightOps
from deepseek_cli.ops.rounded_cache import BETWEEN, BY_CHANNEL
from deepseek_cli.ops.torch_ops import rope_table
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.tensors import CorrectedTensor, TensorRef

INT64_MAX = (1 << 63) - 1
INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64
CACHE_DTYPES = {"fp32": FLOAT, "fp16": ir.DataType.FLOAT16, "int8": ir.DataType.INT8}
HEAD_MULTIPLE = 16  # of GroupQueryAttention's fused rotary embedding


@dataclass(frozen=True, slots=True)
class Reader:
    """What a reader of graphs wants to find: names of dimensions, and of data files.

    `keeps_scalar` makes num_logits_to_keep an input that must be given, and a scalar. Without `gathers_blocks` it lacks
    GatherBlockQuantized.
    """

    batch: str = "batch"
    past: str = "past"
    keeps_scalar: bool = False
    gathers_blocks: bool = True
    files: DataFiles = ONE_FILE


ORT = Reader()


class OnnxOps(WeightOps):
    """Values are graph values, or the lazy ones above.

    `context` positions get rotary tables. `accuracy_level` 4 lets MatMulNBits round its input to int8, 0 does not.
    `kv` is how keys and values, or latents, are cached. Of int8 `kv_scales` has those of each layer's keys and values,
    [kv_heads, head_dim]. `latent_cache` is the form of latents: `plain` for one row of a batch at a time, or `gqa`,
    GroupQueryAttention's. With `rounds_tokens` products of int8 weights with a scale a row round by token (onnx_tokens.py).
    """

    always_few = False  # tokens in a run, so that latents are never worth to be expanded

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, TensorRef],
        context: int,
        accuracy_level: int = 4,
        reporter: Reporter = SILENT,
        kv: str = "fp32",
        latent_cache: str = "plain",
        reader: Reader = ORT,
        kv_scales: Sequence[tuple[Tensor, Tensor]] = (),
        rounds_tokens: bool = False,
    ) -> None:
        super().__init__(graph, tensors, reporter)
        self.context, self.reader, self.accuracy_level = context, reader, accuracy_level
        self.cache_dtype, self.latent_cache, self.kv_scales = CACHE_DTYPES[kv], latent_cache, kv_scales
        self.tokens = graph.input("input_ids", INT64, [reader.batch, "sequence"])
        self.mask = graph.input("attention_mask", INT64, [reader.batch, "total"])
        self.lengths: tuple[ir.Value, ir.Value] | None = None
        self.step: Step | None = None
        self.rotary: dict[Rope, list[ir.Value]] = {}
        self.rounds_tokens = rounds_tokens
        self.rounded: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def embed(self, tokens: Any, name: str) -> ir.Value:
        """A tied head will point at the same bytes."""
        weight = self._weight(name)
        if isinstance(weight, NBits) and weight.inputs % weight.block:
            weight = self._values(name, f"its rows are no multiple of {weight.block}")
        elif isinstance(self.tensors[f"{name}.weight"].read(), CorrectedTensor):
            weight = self._values(name, "rows that are looked up have no place for its low-rank correction")
        if isinstance(weight, Rows):
            x = self.graph.node("Gather", [self.graph.constant(f"{name}.weight", weight), tokens], f"{name}.gather", weights=name)
        else:
            codes, scale, zero = self._constants(name, [weight])
            rows = self.graph.alias(f"{name}.rows", codes, weight.packed.flatten(1).shape)
            if self.reader.gathers_blocks:
                x = self.graph.node(
                    "GatherBlockQuantized", [rows, tokens, scale, zero], f"{name}.gather", weights=name,
                    bits=weight.bits, block_size=weight.block, gather_axis=0, quantize_axis=1,
                )  # fmt: skip
            else:
                parts, blocks = (rows, scale, zero), weight.inputs // weight.block
                x = gather_rows(self.graph, name, tokens, parts, weight.bits, blocks, self._integers, self._floats)
        self._done(name)
        return x

    def linears(self, x: Any, names: Sequence[str]) -> list[Any]:
        weights = [self._weight(name) for name in names]
        kinds = {
            (w.layout if isinstance(w, NBits) else w.shape[1], self._by_token(name, w))
            for name, w in zip(names, weights, strict=True)
        }
        if len(kinds) > 1:
            return [self._product(x, [name], [weight]) for name, weight in zip(names, weights, strict=True)]
        product = Product(self._product(x, names, weights), [len(w) for w in weights])
        return [Part(product, i) for i in range(len(names))]

    def linear(self, x: Any, name: str) -> ir.Value:
        return self._product(x, [name], [self._weight(name)])

    def rms_norm(self, x: Any, name: str, eps: float) -> ir.Value:
        if isinstance(x, Sum) and x.value is None:
            normed, _, _, x.value = self.graph.outputs_of(
                "SkipSimplifiedLayerNormalization", [self._value(x.x), self._value(x.y), self._vector(name)], 4, name,
                weights=name, epsilon=eps,
            )  # fmt: skip
            return normed
        return self._norm(self._value(x), name, eps)

    def head_norm(self, x: Any, name: str, heads: int, eps: float) -> ir.Value:
        rows = self.graph.node("Reshape", [self._value(x), self._integers(0, 0, heads, -1)])
        return self.graph.node("Reshape", [self._norm(rows, name, eps), self._integers(0, 0, -1)])

    def attention(self, q: Any, k: Any, v: Any, layer: int, spec: AttentionSpec) -> ir.Value:
        if spec.head_dim % HEAD_MULTIPLE:
            raise ModelUnsupported(
                "ONNX Runtime's attention wants a head_dim that is a multiple of {multiple}; this model's is {head_dim}.",
                hint="Run the model's own folder instead.",
                multiple=HEAD_MULTIPLE,
                head_dim=spec.head_dim,
            )
        kinds, shape = ("key", "value"), lambda length: [self.reader.batch, spec.kv_heads, length, spec.head_dim]
        dtype = self.cache_dtype
        past = [self.graph.input(f"past_key_values.{layer}.{kind}", dtype, shape(self.reader.past)) for kind in kinds]
        scales, rounding = self._cache_scales(layer)
        y, *present = self.graph.outputs_of(
            "GroupQueryAttention", [*self._packed(q, k, v), *past, *self._lengths(), *self._rotary(spec.rope), *scales], 3,
            f"layers.{layer}.attention",
            num_heads=spec.heads, kv_num_heads=spec.kv_heads, scale=spec.scale, do_rotary=1, **rounding,
        )  # fmt: skip
        for value, kind in zip(present, kinds, strict=True):
            self.graph.output(value, f"present.{layer}.{kind}", dtype, shape("reserved"))
        return y

    def _cache_scales(self, layer: int) -> tuple[list[ir.Value | None], dict[str, Any]]:
        """The attention's inputs and attributes that say how its cache is rounded; none where it is not."""
        if not self.kv_scales:
            return [], {}
        scales = zip(("key", "value"), self.kv_scales[layer], strict=True)
        held = [self.graph.constant(f"layers.{layer}.attention.{kind}_scales", s[None, :, None]) for kind, s in scales]
        return [*[None] * BETWEEN, *held], BY_CHANNEL

    def latent_attention(
        self, q: Any, kv: Any, norm: str, up: str, layer: int, spec: LatentSpec, selected: None = None
    ) -> ir.Value:
        return latent_attention(self, q, kv, norm, up, layer, spec)

    def index(self, x: Any, q_latent: Any, name: str, layer: int, spec: IndexSpec) -> None:
        """All keys, which is what the indexer chooses as long as there are at most top_k: the context must end there."""
        assert self.context <= spec.top_k

    def route(self, x: Any, name: str, spec: GateSpec) -> Routes:
        return route(self, self._value(x), name, spec)

    def experts(self, x: Any, routes: Routes, name: str, spec: GateSpec) -> ir.Value:
        return mixture(self, self._value(x), routes, name, spec)

    def concat(self, x: Any, y: Any) -> ir.Value:
        return self.graph.node("Concat", [self._value(x), self._value(y)], axis=-1)

    def gated_mlp(self, x: Any, gate: str, up: str, down: str) -> ir.Value:
        """Gate and up stay two products: cutting one in two afterwards costs more than the second (benchmarks/LOG.md)."""
        g, u = self.linear(x, gate), self.linear(x, up)
        return self.linear(self.graph.node("Mul", [self._silu(g, f"{gate}.silu"), u], f"{gate}.gated"), down)

    def add(self, x: Any, y: Any) -> Sum:
        return Sum(x, y)

    def head(self, x: Any, name: str) -> ir.Value:
        logits = self._float32(self.linear(self._kept(x), name))
        vocabulary = self.tensors[f"{name}.weight"].shape[0]
        self.graph.output(logits, "logits", FLOAT, [self.reader.batch, "kept", vocabulary], first=True)
        return logits

    def give_hidden(self, normed: Any, channels: int) -> None:
        self.graph.output(self._value(normed), HIDDEN, FLOAT, [self.reader.batch, "sequence", channels])

    def _kept(self, x: Any) -> ir.Value:
        """The last `num_logits_to_keep` positions, 0 for all: a slice from -0 takes the whole."""
        if self.reader.keeps_scalar:
            keep = self.graph.node("Reshape", [self.graph.input("num_logits_to_keep", INT64, []), self._integers(1)])
        else:
            keep = self.graph.input("num_logits_to_keep", INT64, [1], default=torch.zeros(1, dtype=torch.int64))
        start = self.graph.node("Neg", [keep])
        return self.graph.node("Slice", [self._value(x), start, self._integers(INT64_MAX), self._integers(1)])

    def _float32(self, x: ir.Value) -> ir.Value:
        return x

    def _silu(self, x: ir.Value, name: str) -> ir.Value:
        return self.graph.node("QuickGelu", [x], name, alpha=1.0)  # x * sigmoid(alpha * x)

    def _value(self, x: Any) -> ir.Value:
        """The graph value of a lazy one, written where it was not yet."""
        if isinstance(x, Sum):
            x.value = x.value or self.graph.node("Add", [self._value(x.x), self._value(x.y)])
            return x.value
        if isinstance(x, Part):
            product = x.product
            if product.split is None:
                sizes = self._integers(*product.sizes)
                product.split = self.graph.outputs_of("Split", [product.value, sizes], len(product.sizes), axis=-1)
            return product.split[x.index]
        return x

    def _packed(self, q: Any, k: Any, v: Any) -> list[ir.Value | None]:
        """The attention's first three inputs: a product of all three stays whole."""
        if isinstance(q, Part) and all(isinstance(t, Part) and t.product is q.product for t in (k, v)):
            return [q.product.value, None, None]
        return [self._value(t) for t in (q, k, v)]

    def _norm(self, x: ir.Value, name: str, eps: float) -> ir.Value:
        inputs = [x, self._vector(name)]
        return self.graph.node("SimplifiedLayerNormalization", inputs, name, weights=name, axis=-1, stash_type=1, epsilon=eps)

    def _product(self, x: Any, names: Sequence[str], weights: Sequence[Rows | NBits]) -> ir.Value:
        """x @ [rows of all weights]ᵀ + bias; the weights share one layout."""
        label, bias = ",".join(names), self._bias(names)
        packed = [w for w in weights if isinstance(w, NBits)]
        if all(self._by_token(name, w) for name, w in zip(names, weights, strict=True)):
            y = token_product(self, self._value(x), label, packed)
            y = y if bias is None else self.graph.node("Add", [y, bias], f"{label}.biased", weights=label)
        elif packed:
            inputs = [self._value(x), *self._constants(label, packed), None, bias]
            y = self.graph.node(
                "MatMulNBits", inputs, label, weights=label, accuracy_level=self.accuracy_level,
                K=packed[0].inputs, N=sum(map(len, packed)), bits=packed[0].bits, block_size=packed[0].block,
            )  # fmt: skip
        else:
            weight = self.graph.constant(f"{label}.weight", *(w for w in weights if isinstance(w, Rows)))
            y = self.graph.node("FusedMatMul", [self._value(x), weight], label, weights=label, transB=1)
            y = y if bias is None else self.graph.node("Add", [y, bias], f"{label}.biased", weights=label)
        y = corrected(self, y, self._value(x), names) if packed else y
        self._done(*names)
        return y

    def _by_token(self, name: str, weight: Rows | NBits) -> bool:
        return self.rounds_tokens and not name.endswith(IN_BLOCKS) and isinstance(weight, NBits) and has_row_scales(weight)

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
            name = f"rotary.{len(self.rotary)}"
            cos, sin = rope_table(rope, 0, self.context, torch.device("cpu"))
            self.rotary[rope] = [self.graph.constant(f"{name}.cos", cos), self.graph.constant(f"{name}.sin", sin)]
        return self.rotary[rope]


def emit(
    architecture: Architecture,
    config: Any,
    tensors: Mapping[str, TensorRef],
    path: Path,
    context: int,
    reporter: Reporter = SILENT,
    interpreter: type[OnnxOps] = OnnxOps,
    reader: Reader = ORT,
    gives_hidden: bool = False,
    **options: Any,
) -> list[tuple[str, str]]:
    """Write the graph `path`, for up to `context` tokens, and its data beside it; `options` are the interpreter's.

    Gives back the quantized tensors that became dense, each with the reason. Raises ModelUnsupported.
    """
    with Graph(path, {"context": str(context)}, reader.files) as graph:
        ops = interpreter(graph, tensors, context, reporter=reporter, reader=reader, **options)
        normed = hidden_states(ops, architecture, config, ops.tokens)
        if gives_hidden:
            ops.give_hidden(normed, config.hidden)
        architecture.head(ops, config, normed)
    reporter.progress("write", ops.size_bytes, ops.size_bytes, "B")
    return ops.dense_fallbacks
