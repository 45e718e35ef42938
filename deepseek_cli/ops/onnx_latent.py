"""Latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) as ONNX Runtime computes it, from one cache tensor a layer.

A token's row is [latent | rotated key]. Keys and values are expanded from the rows where many queries share the work, and
attended as they lie where few do. Rows are appended in place: the runtime binds the same memory as a layer's input and output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from torch import Tensor

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.ops import LatentSpec

if TYPE_CHECKING:
    from deepseek_cli.ops.onnx_ops import OnnxOps

KEYS, VALUES = "keys", "values"  # what the rows of the expansion's weight are split into
GQA_MULTIPLE = 8  # of a head's channels in GroupQueryAttention
INT64, FLOAT = ir.DataType.INT64, ir.DataType.FLOAT


def latent_attention(ops: OnnxOps, q: Any, kv: Any, norm: str, up: str, layer: int, spec: LatentSpec) -> ir.Value:
    """q [batch, new, heads * (nope + rope)], kv [batch, new, rank + rope] to [batch, new, heads * value]"""
    return LatentAttention(ops, up, layer, spec).attend(ops._value(q), ops._value(kv), norm)


def split_expansion(weight: Tensor, spec: LatentSpec) -> tuple[Tensor, Tensor]:
    """weight [heads * (nope + value), rank] to keys [heads, nope, rank] and values [heads, rank, value]"""
    keys, values = weight.unflatten(0, (spec.heads, -1)).split([spec.nope_dim, spec.value_dim], dim=1)
    return keys.contiguous(), values.mT.contiguous()


def join_expansion(keys: Tensor, values: Tensor) -> Tensor:
    """The inverse of `split_expansion`."""
    return torch.cat((keys, values.mT), dim=1).flatten(0, 1)


class Step:
    """What all layers of one run share, written into the graph once: how many tokens are new, and where they stand."""

    def __init__(self, ops: OnnxOps) -> None:
        self.ops, self.node = ops, ops.graph.node
        self.decided: dict[LatentSpec, ir.Value] = {}
        self.new = self.node("Shape", [ops.tokens], start=1, end=2)  # int64 [1], like `total` and `past`
        if ops.latent_cache == "gqa":
            self.positions = self._positions_of_rows()
            return
        self.total = self.node("Shape", [ops.mask], start=1, end=2)
        self.past = self.positions = self.node("Sub", [self.total, self.new])  # the position of the first new token
        self.starts = self.node("Expand", [self.past, self.node("Shape", [ops.tokens], end=1)])
        self.one = self.node("Equal", [self.new, ops._integers(1)])
        self.mask = self._causal()

    def few(self, spec: LatentSpec) -> ir.Value:
        """Whether so few tokens are new that latents are better attended as they lie: `LatentSpec.absorbed_is_cheaper`."""
        if spec not in self.decided:
            moved, width = spec.rank * (spec.nope_dim + spec.value_dim), 2 * spec.rank - spec.nope_dim - spec.value_dim
            grown = self.node("Add", [self._times(self.total, width), self.ops._integers(moved)])
            self.decided[spec] = self.node("LessOrEqual", [self.node("Mul", [self.new, grown]), self._times(self.total, moved)])
        return self.decided[spec]

    def _times(self, x: ir.Value, factor: int) -> ir.Value:
        return self.node("Mul", [x, self.ops._integers(factor)])

    def _causal(self) -> ir.Value:
        """float32 [new, total], -inf where a key lies behind its query."""
        queries = self.node("Unsqueeze", [self._range(self.past, self.total), self.ops._integers(1)])
        behind = self.node("Greater", [self._range(None, self.total), queries])
        return self.node("Where", [behind, self.ops._floats(-torch.inf), self.ops._floats(0.0)])

    def _positions_of_rows(self) -> ir.Value:
        """int64 [batch, new], each row's own: those behind what it holds. A first prompt starts at 0, however short its row."""
        lengths = self.node("Cast", [self.ops._lengths()[0]], to=INT64)  # less one
        first = self.node("Add", [self.node("Sub", [lengths, self.new]), self.ops._integers(1)])
        first = self.node("Max", [self.node("Unsqueeze", [first, self.ops._integers(1)]), self.ops._integers(0)])
        return self.node("Add", [first, self._range(None, self.new)])

    def _range(self, start: ir.Value | None, stop: ir.Value) -> ir.Value:
        scalar = lambda x: self.node("Squeeze", [x])  # noqa: E731
        return self.node("Range", [scalar(start or self.ops._integers(0)), scalar(stop), scalar(self.ops._integers(1))])


class LatentAttention:
    """One layer's. Both forms read the same two tensors, which hold the expansion's weight once, as float32."""

    def __init__(self, ops: OnnxOps, up: str, layer: int, spec: LatentSpec) -> None:
        self.ops, self.graph, self.layer, self.spec = ops, ops.graph, layer, spec
        self.step = ops.step = ops.step or Step(ops)
        keys, values = split_expansion(ops._values(up).whole, spec)
        self.keys = self.graph.constant(f"{up}.{KEYS}", keys)
        self.values = self.graph.constant(f"{up}.{VALUES}", values)
        ops._done(up)

    def attend(self, q: ir.Value, kv: ir.Value, norm: str) -> ir.Value:
        spec = self.spec
        nope, turned = self._cut(self._heads_first(q), spec.nope_dim, spec.rope_dim)  # [batch, heads, new, ..]
        turned = self._rotate(turned)
        latent, shared = self._cut(kv, spec.rank, spec.rope_dim)
        latent = self.ops._norm(latent, norm, spec.norm_eps)
        new = self._join(latent, self._rotate(shared))  # [batch, new, rank + rope]
        if self.ops.latent_cache == "gqa":
            return self._grouped(self._absorb(nope, turned), new)
        rows = self._append(new)
        if self.ops.always_few:
            return self._merged(self._absorbed(nope, turned, rows, masked=True))
        one, few = self.step.one, self.step.few(spec)

        def several() -> ir.Value:
            return self.graph.choose(
                few,
                lambda: self._absorbed(nope, turned, rows, masked=True),
                lambda: self._expanded(nope, turned, rows),
            )

        return self._merged(self.graph.choose(one, lambda: self._absorbed(nope, turned, rows, masked=False), several))

    def _absorbed(self, nope: ir.Value, turned: ir.Value, rows: ir.Value, masked: bool) -> ir.Value:
        """The heads' queries are rows of one product over the cache, which is read once for all of them."""
        spec, node = self.spec, self.graph.node
        q = self._shaped(self._absorb(nope, turned), 0, -1, spec.cached)  # [batch, heads * new, rank + rope]
        scores = node("FusedMatMul", [q, rows], transB=1, alpha=spec.scale)
        if masked:
            by_head = node("Concat", [self.ops._integers(-1, spec.heads), self.step.new, self.step.total], axis=0)
            biased = node("Add", [node("Reshape", [scores, by_head]), self.step.mask])
            scores = node("Reshape", [biased, node("Shape", [scores])])
        attended = node("MatMul", [node("Softmax", [scores], axis=-1), rows])  # over all channels: a narrower view is a copy
        return self._values_of(self._shaped(attended, 0, spec.heads, -1, spec.cached))

    def _expanded(self, nope: ir.Value, turned: ir.Value, rows: ir.Value) -> ir.Value:
        spec, node = self.spec, self.graph.node
        latent, rope = self._cut(node("Unsqueeze", [rows, self.ops._integers(1)]), spec.rank, spec.rope_dim)
        keys = node("FusedMatMul", [latent, self.keys], transB=1)  # [batch, heads, total, nope]
        values = node("MatMul", [latent, self.values])
        scores = node("FusedMatMul", [nope, keys], transB=1, alpha=spec.scale)
        shared = node("FusedMatMul", [turned, rope], transB=1, alpha=spec.scale)
        scores = node("Add", [node("Add", [scores, shared]), self.step.mask])
        return node("MatMul", [node("Softmax", [scores], axis=-1), values])

    def _grouped(self, q: ir.Value, rows: ir.Value) -> ir.Value:
        """GroupQueryAttention over one head of keys that are the values too: rows of a batch may differ in length."""
        spec, kinds = self.spec, ("key", "value")
        if spec.cached % GQA_MULTIPLE:
            raise ModelUnsupported(
                "GroupQueryAttention wants latents of a multiple of {multiple} channels; this model's have {channels}.",
                hint="Leave latent_cache=gqa out.",
                multiple=GQA_MULTIPLE,
                channels=spec.cached,
            )
        dtype, held, grown = self.ops.cache_dtype, ("batch", 1, "past", spec.cached), ("batch", 1, "reserved", spec.cached)
        past = [self.graph.input(f"past_key_values.{self.layer}.{kind}", dtype, held) for kind in kinds]
        y, *present = self.graph.outputs_of(
            "GroupQueryAttention", [self._merged(q), rows, rows, *past, *self.ops._lengths()], 3,
            f"layers.{self.layer}.attention", num_heads=spec.heads, kv_num_heads=1, scale=spec.scale,
        )  # fmt: skip
        for value, kind in zip(present, kinds, strict=True):
            self.graph.output(value, f"present.{self.layer}.{kind}", dtype, grown)
        return self._merged(self._values_of(self._heads_first(y)))

    def _append(self, new: ir.Value) -> ir.Value:
        """All rows, float32 [batch, total, rank + rope], the new ones behind the others."""
        dtype, shape = self.ops.cache_dtype, ("batch", "total", self.spec.cached)
        past = self.graph.input(f"past_key_values.{self.layer}.latent", dtype, shape)
        new = new if dtype == FLOAT else self.graph.node("Cast", [new], to=dtype)
        rows = self.graph.node("TensorScatter", [past, new, self.step.starts], axis=1)
        self.graph.output(rows, f"present.{self.layer}.latent", dtype, shape)
        return rows if dtype == FLOAT else self.graph.node("Cast", [rows], to=FLOAT)

    def _absorb(self, nope: ir.Value, turned: ir.Value) -> ir.Value:
        """Queries for latents: [batch, heads, new, rank + rope]"""
        return self._join(self.graph.node("MatMul", [nope, self.keys]), turned)

    def _values_of(self, attended: ir.Value) -> ir.Value:
        """attended rows [batch, heads, new, rank + rope] to [batch, heads, new, value]"""
        ends = [self.ops._integers(n) for n in (0, self.spec.rank, 3)]
        return self.graph.node("MatMul", [self.graph.node("Slice", [attended, *ends]), self.values])

    def _rotate(self, x: ir.Value) -> ir.Value:
        """Half-split rotary embedding of [batch, heads, new, rope] or [batch, new, rope]"""
        return self.graph.node("RotaryEmbedding", [x, self.step.positions, *self.ops._rotary(self.spec.rope)])

    def _heads_first(self, x: ir.Value) -> ir.Value:
        return self.graph.node("Transpose", [self._shaped(x, 0, 0, self.spec.heads, -1)], perm=[0, 2, 1, 3])

    def _merged(self, x: ir.Value) -> ir.Value:
        """The inverse of `_heads_first`."""
        return self._shaped(self.graph.node("Transpose", [x], perm=[0, 2, 1, 3]), 0, 0, -1)

    def _shaped(self, x: ir.Value, *shape: int) -> ir.Value:
        return self.graph.node("Reshape", [x, self.ops._integers(*shape)])

    def _cut(self, x: ir.Value, *sizes: int) -> list[ir.Value]:
        return self.graph.outputs_of("Split", [x, self.ops._integers(*sizes)], len(sizes), axis=-1)

    def _join(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.graph.node("Concat", [x, y], axis=-1)
