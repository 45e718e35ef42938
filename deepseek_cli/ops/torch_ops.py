"""The interpreter that computes: PyTorch, eager, with a KV cache that is reserved once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.memory import untouched
from deepseek_cli.ops import AttentionSpec, GateSpec, IndexSpec, LatentSpec, Rope
from deepseek_cli.ops.torch_experts import Routes, choose, mix
from deepseek_cli.ops.torch_latent import absorbed, expanded, index_scores


class KVCache:
    """Rows of every layer, each tensor [batch, heads, context, channels]; `length` tokens of them are in use.

    Attention keeps keys and values, latent attention one tensor of latents. Memory is reserved untouched, so that resident
    bytes follow the tokens.
    """

    def __init__(self, context: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self.context, self.dtype, self.device = context, dtype, device
        self.length = 0
        self.rows: dict[Hashable, tuple[Tensor, ...]] = {}

    @property
    def bytes_per_token(self) -> int:
        return sum(t.nbytes // self.context for tensors in self.rows.values() for t in tensors)

    def append(self, layer: Hashable, *new: Tensor) -> list[Tensor]:
        """Store new rows behind `length`; give back all of them up to the new end."""
        end = self.length + new[0].shape[2]
        if layer not in self.rows:
            shapes = [(*t.shape[:2], self.context, t.shape[3]) for t in new]
            self.rows[layer] = tuple(self._reserve(shape) for shape in shapes)
        for kept, t in zip(self.rows[layer], new, strict=True):
            kept[:, :, self.length : end] = t
        return [kept[:, :, :end] for kept in self.rows[layer]]

    def _reserve(self, shape: tuple[int, ...]) -> Tensor:
        if self.device != "cpu":
            return torch.empty(shape, dtype=self.dtype, device=self.device)
        return torch.frombuffer(untouched(self.dtype.itemsize * math.prod(shape)), dtype=self.dtype).view(shape)


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
        y = self.attend(q, k, v, layer, spec)
        return y.transpose(1, 2).flatten(-2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, spec: AttentionSpec) -> Tensor:
        """Append rotated k and v, attend to all that came before: q [batch, heads, new, head_dim] to the same shape."""
        if self.cache:
            k, v = self.cache.append(layer, k, v)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=causal_mask(q, k),
            is_causal=q.shape[2] == k.shape[2],
            scale=spec.scale,
            enable_gqa=spec.heads != spec.kv_heads,
        )

    def latent_attention(
        self, q: Tensor, kv: Tensor, norm: str, up: str, layer: int, spec: LatentSpec, selected: Tensor | None = None
    ) -> Tensor:
        q = q.unflatten(-1, (spec.heads, -1)).transpose(1, 2)  # [batch, heads, new, nope + rope]
        latent, shared = kv.split([spec.rank, spec.rope_dim], dim=-1)
        cos, sin = rope_table(spec.rope, self.position, q.shape[2], q.device)
        nope, turned = q.split([spec.nope_dim, spec.rope_dim], dim=-1)
        q = torch.cat((nope, rotate(turned, cos, sin)), dim=-1)
        rows = torch.cat((self.rms_norm(latent, norm, spec.norm_eps), rotate(shared, cos, sin)), dim=-1).unsqueeze(1)
        if self.cache:
            (rows,) = self.cache.append(layer, rows)
        y = self.attend_latents(q, rows, self._weight(up), layer, spec, selected)
        return y.transpose(1, 2).flatten(-2)

    def attend_latents(
        self, q: Tensor, rows: Tensor, up: Tensor, layer: int, spec: LatentSpec, selected: Tensor | None
    ) -> Tensor:
        """Rotated q [batch, heads, new, nope + rope] over rows [batch, 1, total, rank + rope] to [batch, heads, new, value]."""
        absorb = spec.absorbed_is_cheaper(q.shape[2], rows.shape[2])
        mask = causal_mask(q, rows, always=absorb) if selected is None else selected
        return (absorbed if absorb else expanded)(q, rows[:, 0], up, spec, mask)

    def index(self, x: Tensor, q_latent: Tensor, name: str, layer: int, spec: IndexSpec) -> Tensor | None:
        """bool [batch, 1, new, total], true where a query may attend."""
        cos, sin = rope_table(spec.rope, self.position, x.shape[1], x.device)
        turn = lambda t: torch.cat((rotate(t[..., : 2 * cos.shape[-1]], cos, sin), t[..., 2 * cos.shape[-1] :]), dim=-1)  # noqa: E731
        k = self.linear(x, f"{name}.wk").float()
        k = F.layer_norm(k, k.shape[-1:], self._wide(f"{name}.k_norm.weight"), self._wide(f"{name}.k_norm.bias"), 1e-6)
        k = turn(k.to(x.dtype)).unsqueeze(1)
        if self.cache:
            (k,) = self.cache.append((layer, "index"), k)
        new, total = x.shape[1], k.shape[2]
        if total <= spec.top_k:
            return None
        q = turn(self.linear(q_latent, f"{name}.wq_b").unflatten(-1, (spec.heads, -1)).transpose(1, 2)).transpose(1, 2)
        scores = index_scores(q, k[:, 0], F.linear(x.float(), self._weight(f"{name}.weights_proj").float()), spec)
        causal = torch.ones(new, total, dtype=torch.bool, device=x.device).tril(total - new)
        best = scores.masked_fill(~causal, float("-inf")).topk(spec.top_k).indices
        return (torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True) & causal).unsqueeze(1)

    def route(self, x: Tensor, name: str, spec: GateSpec) -> Routes:
        logits = F.linear(x.float(), self._weight(name).float()).flatten(0, -2)
        return choose(logits, self.weight(f"{name}.e_score_correction_bias") if spec.corrected else None, spec)

    def experts(self, x: Tensor, routes: Routes, name: str, spec: GateSpec) -> Tensor:
        def expert(tokens: Tensor, e: int) -> Tensor:
            return self.gated_mlp(tokens, f"{name}.{e}.gate_proj", f"{name}.{e}.up_proj", f"{name}.{e}.down_proj")

        return mix(x.flatten(0, -2), routes, expert).view_as(x)

    def concat(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat((x, y), dim=-1)

    def gated_mlp(self, x: Tensor, gate: str, up: str, down: str) -> Tensor:
        g, u = self.linears(x, [gate, up])
        return self.linear(F.silu(g) * u, down)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def head(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x[:, -self.keep :], self._weight(name)).float()

    def _wide(self, name: str) -> Tensor | None:
        tensor = self.weight(name)
        return None if tensor is None else tensor.float()

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


def causal_mask(q: Tensor, k: Tensor, always: bool = False) -> Tensor | None:
    """bool [new, total]; None where PyTorch's own causal mask serves (no past) or nothing is masked (one new token)."""
    new, total = q.shape[2], k.shape[2]
    if new == 1 or (new == total and not always):
        return None
    return torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
