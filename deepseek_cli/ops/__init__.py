"""The vocabulary in which architectures are written. Each interpreter gives these words a meaning.

An architecture says what is computed; `torch_ops` computes it, `onnx_ops` and `openvino_ops` write it as a graph, `cost` counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from deepseek_cli.errors import UsageError

FEWEST_TOKENS = 64  # of sparse attention: the first page, and those that a block of queries needs around it

Weights = Iterator[tuple[str, tuple[int, ...]]]
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


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), causal.

    A head's query is [nope_dim | rope_dim]; keys and values come from one latent of `rank` channels a token, beside one
    rotated key of `rope_dim` channels that all heads share. `scale` multiplies the scores, YaRN's factor in it.
    """

    heads: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    rank: int
    scale: float
    rope: Rope
    norm_eps: float

    @property
    def cached(self) -> int:
        """Values of the KV cache per token: a row is [latent | rotated key]."""
        return self.rank + self.rope_dim

    def absorbed_is_cheaper(self, new: int, total: int) -> bool:
        """Whether `new` queries over `total` rows cost less on latents than on keys and values expanded from them."""
        absorbed = new * (self.rank * (self.nope_dim + self.value_dim) + total * (2 * self.rank + self.rope_dim))
        expanded = total * self.rank * (self.nope_dim + self.value_dim)
        return absorbed <= expanded + new * total * (self.nope_dim + self.rope_dim + self.value_dim)


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """The lightning indexer of DeepSeek-V3.2's sparse attention: `top_k` keys per query. Its rope turns the first channels."""

    heads: int
    head_dim: int
    top_k: int
    rope: Rope


@dataclass(frozen=True, slots=True)
class SparseSpec:
    """Attend to at most `tokens` keys a query, and compute this share of the `heads`; None for all."""

    tokens: int | None = None
    heads: float | None = None

    @classmethod
    def parse(cls, text: str) -> SparseSpec:
        """Read "tokens=256", "heads=0.75" or both, with a comma between. Raises UsageError for anything else."""
        words = [word.strip().partition("=") for word in text.split(",")]
        found = {name: value for name, _, value in words}
        try:
            tokens = int(found.pop("tokens")) if "tokens" in found else None
            heads = float(found.pop("heads")) if "heads" in found else None
        except ValueError:
            found[text] = ""
        if found or len(words) > len({name for name, _, _ in words}):
            raise UsageError(
                "--sparse-attention cannot be {text!r}.",
                hint="Write it like tokens=256, heads=0.75, or tokens=256,heads=0.75.",
                text=text,
            )
        if tokens is not None and tokens < FEWEST_TOKENS:
            raise UsageError(
                "--sparse-attention tokens={tokens} is too few.", hint="Use at least {least}.", tokens=tokens, least=FEWEST_TOKENS
            )
        if heads is not None and not 0 < heads <= 1:
            raise UsageError(
                "--sparse-attention heads={heads} is no share of the heads.", hint="Use more than 0, and 1 at most.", heads=heads
            )
        return cls(tokens, None if heads == 1 else heads)


@dataclass(frozen=True, slots=True)
class GateSpec:
    """How tokens choose experts. Groups of experts compete first, where there is more than one."""

    experts: int
    top_k: int
    scoring: str  # "softmax" or "sigmoid", of float32 logits
    groups: int = 1
    top_groups: int = 1
    corrected: bool = False  # a bias joins the choice but not the weights, and groups are scored by their best two, not one
    renormalize: bool = False  # the chosen weights sum to 1 before they are scaled
    scale: float = 1.0


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

    def latent_attention(self, q: X, kv: X, norm: str, up: str, layer: int, spec: LatentSpec, selected: Any = None) -> X:
        """Attend over latents: q [.., heads * (nope_dim + rope_dim)], kv [.., rank + rope_dim] to [.., heads * value_dim].

        The latent is normed by `norm`, kv's last channels and each head's are rotated, and one row a token goes into the cache.
        `up` names the weight [heads * (nope_dim + value_dim), rank] that expands latents. `selected` comes from `index`.
        """

    def index(self, x: X, q_latent: X, name: str, layer: int, spec: IndexSpec) -> Any:
        """Which keys each query may attend to, an opaque value; None for all. `name` is the prefix of the indexer's weights."""

    def route(self, x: X, name: str, spec: GateSpec) -> Any:
        """The experts of each token and their weights, an opaque value."""

    def experts(self, x: X, routes: Any, name: str, spec: GateSpec) -> X:
        """The weighted sum of each token's experts, gated MLPs called `{name}.{expert}.gate_proj`, `up_proj`, `down_proj`."""

    def concat(self, x: X, y: X) -> X:
        """Channels of x, then those of y."""

    def gated_mlp(self, x: X, gate: str, up: str, down: str) -> X:
        """down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def add(self, x: X, y: X) -> X: ...

    def head(self, x: X, name: str) -> X:
        """Logits [batch, positions, vocabulary]; `name` may be the embedding's, where they are tied."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model family, as a description. `weights` gives every tensor's on-disk name and shape, for a config.

    `draft` predicts one token further than the model does, with weights of its own that a checkpoint may leave out
    (multi-token prediction, arXiv 2412.19437, section 2.2). `row_order` names the tensors whose rows stand on disk in
    another order than these operators want, with that order. `protected` are quantization rules, (pattern, scheme), that
    hold unless the user's say otherwise.
    """

    name: str
    read_config: Callable[[Any], Any]  # a `fields.Fields` to the family's config
    weights: Callable[[Any], Weights]
    embed: Callable[[Any, Any, Any], Any]  # (ops, config, tokens)
    block: Callable[[Any, Any, Any, int], Any]  # (ops, config, x, layer)
    norm: Callable[[Any, Any, Any], Any]  # (ops, config, x)
    head: Callable[[Any, Any, Any], Any]  # (ops, config, normed)
    draft: Callable[[Any, Any, Any, Any], Any] | None = None  # (ops, config, next tokens, normed) to what `head` takes
    draft_weights: Callable[[Any], Weights] = lambda config: iter(())
    row_order: Callable[[Any], Mapping[str, Sequence[int]]] = lambda config: {}
    protected: tuple[tuple[str, str], ...] = ()


def hidden_states(ops: Any, architecture: Architecture, config: Any, tokens: Any) -> Any:
    """Embed, every block, the last norm: [batch, length, hidden]"""
    x = architecture.embed(ops, config, tokens)
    for layer in range(config.layers):
        x = architecture.block(ops, config, x, layer)
    return architecture.norm(ops, config, x)


def forward(ops: Any, architecture: Architecture, config: Any, tokens: Any) -> Any:
    """The whole model: logits [batch, positions, vocabulary]"""
    return architecture.head(ops, config, hidden_states(ops, architecture, config, tokens))
