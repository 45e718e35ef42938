"""The vocabulary in which architectures are written. Each interpreter gives these words a meaning.

An architecture says what is computed; `torch_ops` computes it, `onnx_ops` writes it as a graph, `cost` counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

X = TypeVar("X")  # what flows between operators: a tensor, a graph value, or a shape


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding in half-split layout: pairs are (j, j + dim / 2).

    `inverse_frequency` holds dim / 2 values, every scaling already applied; `factor` multiplies cos and sin (YaRN).
    """

    inverse_frequency: tuple[float, ...]
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Grouped-query attention, causal. `head_dim` counts one head's channels in q, k and v alike."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope


class Ops(Protocol[X]):
    """Weights are given by the name they have on disk, without the `.weight` ending."""

    def embed(self, tokens: X, name: str) -> X:
        """tokens [batch, length] to hidden [batch, length, hidden]"""

    def linears(self, x: X, names: Sequence[str]) -> list[X]:
        """One product per name over one input, [.., in] to [.., out], plus its bias if there is one; backends may fuse them."""

    def linear(self, x: X, name: str) -> X: ...

    def rms_norm(self, x: X, name: str, eps: float) -> X:
        """Root-mean-square norm over the last axis (arXiv 1910.07467, eq. 4)."""

    def head_norm(self, x: X, name: str, heads: int, eps: float) -> X:
        """The same norm over each head's channels: x [.., heads * head_dim]."""

    def attention(self, q: X, k: X, v: X, layer: int, spec: AttentionSpec) -> X:
        """Rotate q and k, append k and v to the layer's KV cache, attend: [.., heads * head_dim]."""

    def gated_mlp(self, x: X, gate: str, up: str, down: str) -> X:
        """down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def add(self, x: X, y: X) -> X: ...

    def head(self, x: X, name: str) -> X:
        """Logits [batch, positions, vocabulary]; `name` may be the embedding's, where they are tied."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model family, as a description. `weights` gives every tensor's on-disk name and shape, for a config."""

    name: str
    read_config: Callable[[Any], Any]  # a `fields.Fields` to the family's config
    weights: Callable[[Any], Iterator[tuple[str, tuple[int, ...]]]]
    embed: Callable[[Any, Any, Any], Any]
    block: Callable[[Any, Any, Any, int], Any]
    head: Callable[[Any, Any, Any], Any]


def forward(ops: Any, architecture: Architecture, config: Any, tokens: Any) -> Any:
    """The whole model: embed, every block, head."""
    x = architecture.embed(ops, config, tokens)
    for layer in range(config.layers):
        x = architecture.block(ops, config, x, layer)
    return architecture.head(ops, config, x)
