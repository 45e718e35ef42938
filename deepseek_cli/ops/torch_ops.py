"""The interpreter that computes: PyTorch, eager, with a KV cache that is reserved once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.ops import AttentionSpec, Rope


class KVCache:
    """Keys and values of every layer, [batch, kv_heads, context, head_dim]; `length` tokens of them are in use.

    Memory is reserved untouched, so that resident bytes follow the tokens.
    """

    def __init__(self, context: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self.context, self.dtype, self.device = context, dtype, device
        self.length = 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values behind `length`; give back all of them up to the new end."""
        end = self.length + k.shape[2]
        if layer not in self.layers:
            shape = (*k.shape[:2], self.context, k.shape[3])
            self.layers[layer] = (
                torch.empty(shape, dtype=self.dtype, device=self.device),
                torch.empty(shape, dtype=self.dtype, device=self.device),
            )
        keys, values = self.layers[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]


class TorchOps:
    """Weights come by on-disk name from `weights`, which may load them lazily. Without a cache all starts at position 0."""

    def __init__(
        self, weights: Callable[[str], Tensor | None] | Mapping[str, Tensor], cache: KVCache | None = None, keep: int = 0
    ) -> None:
        self.weight: Callable[[str], Tensor | None] = weights.get if isinstance(weights, Mapping) else weights
        self.cache = cache
        self.keep = keep  # how many last positions get logits; 0 for all

    @property
    def position(self) -> int:
        return self.cache.length if self.cache else 0

    def embed(self, tokens: Tensor, name: str) -> Tensor:
        return F.embedding(tokens, self._weight(name))

    def linears(self, x: Tensor, names: Sequence[str]) -> list[Tensor]:
        return [self.linear(x, name) for name in names]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weight(name), self.weight(f"{name}.bias"))

    def rms_norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * self._weight(name)

    def head_norm(self, x: Tensor, name: str, heads: int, eps: float) -> Tensor:
        return self.rms_norm(x.unflatten(-1, (heads, -1)), name, eps).flatten(-2)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int, spec: AttentionSpec) -> Tensor:
        split = lambda t, heads: t.unflatten(-1, (heads, spec.head_dim)).transpose(1, 2)  # noqa: E731  [batch, heads, length, head_dim]
        q, k, v = split(q, spec.heads), split(k, spec.kv_heads), split(v, spec.kv_heads)
        cos, sin = rope_table(spec.rope, self.position, q.shape[2], q.device)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.cache:
            k, v = self.cache.append(layer, k, v)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=causal_mask(q, k),
            is_causal=q.shape[2] == k.shape[2],
            scale=spec.scale,
            enable_gqa=spec.heads != spec.kv_heads,
        )
        return y.transpose(1, 2).flatten(-2)

    def gated_mlp(self, x: Tensor, gate: str, up: str, down: str) -> Tensor:
        g, u = self.linears(x, [gate, up])
        return self.linear(F.silu(g) * u, down)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def head(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x[:, -self.keep :], self._weight(name)).float()

    def _weight(self, name: str) -> Tensor:
        weight = self.weight(f"{name}.weight")
        if weight is None:
            raise KeyError(f"{name}.weight")
        return weight


def rope_table(rope: Rope, start: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [length, head_dim / 2]"""
    inverse = torch.tensor(rope.inverse_frequency, dtype=torch.float32, device=device)
    angle = torch.outer(torch.arange(start, start + length, dtype=torch.float32, device=device), inverse)
    return angle.cos() * rope.factor, angle.sin() * rope.factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (j, j + dim / 2) of x [batch, heads, length, head_dim]."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def causal_mask(q: Tensor, k: Tensor) -> Tensor | None:
    """None where PyTorch's own causal mask serves (no past) or nothing is masked (one new token)."""
    new, total = q.shape[2], k.shape[2]
    if new in (1, total):
        return None
    return torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
