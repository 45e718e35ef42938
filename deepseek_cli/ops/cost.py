"""The interpreter that counts: bytes and operations of one forward pass, from shapes alone. It needs no weights and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek_cli.ops import Architecture, AttentionSpec, GateSpec, IndexSpec, LatentSpec, forward

Shape = tuple[int, ...]


@dataclass
class Cost:
    """What a pass touches. `fused` lists the sets of weights that one product computes and that must share a scheme."""

    flops: int = 0
    activation_peak: int = 0  # values alive at once inside the widest block
    attention_peak: int = 0  # values that attention holds besides where its kernel is not fused: scores, expanded latents
    cache_rows_per_token: int = 0  # of the KV cache: what an 8-bit cache keeps a scale for
    kv_values_per_token: int = 0
    fused: list[tuple[str, ...]] = field(default_factory=list)
    linears: list[str] = field(default_factory=list)
    embeddings: list[str] = field(default_factory=list)
    head: str = ""  # an embedding where they are tied


class CostOps:
    """A value is its shape, [batch, length, channels]. `past` tokens are in the KV cache already."""

    def __init__(self, shapes: Mapping[str, Shape], past: int = 0) -> None:
        self.shapes, self.past, self.cost = shapes, past, Cost()

    def embed(self, tokens: Shape, name: str) -> Shape:
        self.cost.embeddings.append(name)
        return (*tokens, self.shapes[f"{name}.weight"][1])

    def linears(self, x: Shape, names: Sequence[str]) -> list[Shape]:
        if len(names) > 1:
            self.cost.fused.append(tuple(names))
        return [self._product(x, name) for name in names]

    def linear(self, x: Shape, name: str) -> Shape:
        return self._product(x, name)

    def rms_norm(self, x: Shape, name: str, eps: float) -> Shape:
        return x

    def head_norm(self, x: Shape, name: str, heads: int, eps: float) -> Shape:
        return x

    def attention(self, q: Shape, k: Shape, v: Shape, layer: int, spec: AttentionSpec) -> Shape:
        batch, length, _ = q
        total = self.past + length
        self.cost.flops += 4 * batch * spec.heads * spec.head_dim * length * total
        self.cost.cache_rows_per_token += 2 * spec.kv_heads
        self._alive(q, k, v, q)
        self._attends(batch * spec.heads * length * total)
        self.cost.kv_values_per_token += 2 * spec.kv_heads * spec.head_dim
        return q

    def latent_attention(
        self, q: Shape, kv: Shape, norm: str, up: str, layer: int, spec: LatentSpec, selected: Any = None
    ) -> Shape:
        batch, new, _ = q
        total, width = self.past + new, spec.nope_dim + spec.value_dim
        absorb = spec.absorbed_is_cheaper(new, total)
        attended = 2 * spec.rank + spec.rope_dim if absorb else width + spec.rope_dim
        self.cost.flops += 2 * batch * spec.heads * ((new if absorb else total) * spec.rank * width + new * total * attended)
        self.cost.kv_values_per_token += spec.cached
        self.cost.cache_rows_per_token += 1
        self.cost.linears.append(up)
        y = (batch, new, spec.heads * spec.value_dim)
        self._alive(q, kv, y)
        expanded = 0 if absorb else width + spec.nope_dim + spec.rope_dim  # both, then keys beside the rotated one
        self._attends(batch * spec.heads * total * (3 * new + expanded))  # scores, masked, and their softmax
        return y

    def index(self, x: Shape, q_latent: Shape, name: str, layer: int, spec: IndexSpec) -> None:
        self._product(q_latent, f"{name}.wq_b")
        self._product(x, f"{name}.wk")
        self.cost.flops += 2 * x[0] * x[1] * (spec.heads * x[2] + (self.past + x[1]) * spec.heads * spec.head_dim)
        self.cost.kv_values_per_token += spec.head_dim
        self.cost.cache_rows_per_token += 1

    def route(self, x: Shape, name: str, spec: GateSpec) -> None:
        self.cost.flops += 2 * x[0] * x[1] * x[2] * spec.experts

    def experts(self, x: Shape, routes: None, name: str, spec: GateSpec) -> Shape:
        """Each token pays for `top_k` experts. All experts of a layer share one scheme, as one operator holds them."""
        names = [f"{name}.{e}.{part}_proj" for e in range(spec.experts) for part in ("gate", "up", "down")]
        self.cost.fused.append(tuple(names))
        self.cost.linears += names
        inner = self.shapes[f"{name}.0.gate_proj.weight"][0]
        self.cost.flops += 2 * x[0] * x[1] * spec.top_k * 3 * inner * x[2]
        self._alive(x, (x[0], x[1] * spec.top_k, 2 * inner))
        return x

    def concat(self, x: Shape, y: Shape) -> Shape:
        return (*x[:2], x[2] + y[2])

    def gated_mlp(self, x: Shape, gate: str, up: str, down: str) -> Shape:
        g, u = self.linears(x, [gate, up])
        self._alive(x, g, u)
        return self.linear(g, down)

    def add(self, x: Shape, y: Shape) -> Shape:
        return x

    def head(self, x: Shape, name: str) -> Shape:
        self.cost.head = name
        return self._product((x[0], 1, x[2]), name)  # of the last position alone

    def _product(self, x: Shape, name: str) -> Shape:
        out, inputs = self.shapes[f"{name}.weight"]
        self.cost.flops += 2 * x[0] * x[1] * out * inputs
        self.cost.linears.append(name)
        y = (*x[:2], out)
        self._alive(x, y)
        return y

    def _alive(self, *values: Shape) -> None:
        self.cost.activation_peak = max(self.cost.activation_peak, sum(b * n * c for b, n, c in values))

    def _attends(self, values: int) -> None:
        self.cost.attention_peak = max(self.cost.attention_peak, values)


def count(
    architecture: Architecture,
    config: Any,
    tokens: int = 1,
    past: int = 0,
    batch: int = 1,
    shapes: Mapping[str, Shape] | None = None,
) -> Cost:
    """The cost of feeding each of `batch` rows `tokens` tokens behind `past` others.

    `shapes` of the weights are for who has them; of a layer's experts the first one's are enough.
    """
    ops = CostOps(shapes or dict(architecture.weights(config)), past)
    forward(ops, architecture, config, (batch, tokens))
    return ops.cost


def count_by_layer(
    architecture: Architecture, config: Any, tokens: int, past: int, shapes: Mapping[str, Shape]
) -> dict[str, Cost]:
    """The same pass of one row, by part: "embedding", each layer's number, "head"."""
    ops, found = CostOps(shapes, past), dict[str, Cost]()

    def counted(name: str, value: Shape) -> Shape:
        found[name], ops.cost = ops.cost, Cost()
        return value

    x = counted("embedding", architecture.embed(ops, config, (1, tokens)))
    for layer in range(config.layers):
        x = counted(str(layer), architecture.block(ops, config, x, layer))
    counted("head", architecture.head(ops, config, architecture.norm(ops, config, x)))
    return found


def count_draft(architecture: Architecture, config: Any, shapes: Mapping[str, Shape] | None = None) -> Cost:
    """The cost of the draft for one token, its embedding and head left out."""
    drafting = dict(architecture.draft_weights(config))
    ops = CostOps({**(shapes or dict(architecture.weights(config))), **drafting})
    if architecture.draft and drafting:
        architecture.draft(ops, config, (1, 1), (1, 1, config.hidden))
    return ops.cost
