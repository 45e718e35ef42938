"""The interpreter that calibrates: a weight is quantized the moment its inputs are known, and what follows sees the result.

One pass over a block thus measures each weight's inputs in the model as it will be, its predecessors quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.ops import GateSpec, IndexSpec, LatentSpec
from deepseek_cli.ops.torch_experts import Routes
from deepseek_cli.ops.torch_parts import Parts, PartsOps, over_parts
from deepseek_cli.quantize.statistics import Statistics, gather, gather_weighted

FLOOR = 4  # times an expert's inputs: so many tokens say all there is to know about them
Decide = Callable[[Sequence[str], Statistics], Sequence[Tensor]]


class CalibratingOps(PartsOps):
    """`decide` takes names of weights over one input with its statistics, and gives what to compute with, [out, in] each.

    It is asked about the `wanted` ones. With `beside` the original model runs along, as a second half of each part's batch.
    """

    def __init__(
        self,
        weights: Callable[[str], Tensor | None],
        decide: Decide,
        wanted: Collection[str],
        dtype: torch.dtype,
        beside: bool = False,
    ) -> None:
        super().__init__(weights)
        self.decide, self.wanted, self.dtype, self.beside = decide, wanted, dtype, beside
        self.last: tuple[Any, Statistics] | None = None  # several products may take one input, one after another

    def embed(self, tokens: Parts, name: str) -> Parts:
        x = over_parts(lambda part: self.inner.embed(part, name).to(self.dtype), tokens)
        return over_parts(lambda part: torch.cat((part, part)), x) if self.beside else x

    def linears(self, x: Parts, names: Sequence[str]) -> list[Parts]:
        if not self._wants(*names):
            return super().linears(x, names)
        replaced = self.decide(names, self._statistics(x))
        return [over_parts(self._product, x, name, weight) for name, weight in zip(names, replaced, strict=True)]

    def index(self, x: Parts, q_latent: Parts, name: str, layer: int, spec: IndexSpec) -> Parts:
        """Which keys are chosen is left to the original weights."""
        for weight, inputs in ((f"{name}.wq_b", q_latent), (f"{name}.wk", x)):
            if self._wants(weight):
                self.decide([weight], self._statistics(inputs))
        return over_parts(self.inner.index, x, q_latent, name, layer, spec)

    def latent_attention(
        self, q: Parts, kv: Parts, norm: str, up: str, layer: int, spec: LatentSpec, selected: Parts | None = None
    ) -> Parts:
        """`up` is split and moved around by every backend: it is computed with as it was."""
        if self._wants(up):
            latents = over_parts(lambda part: self.inner.rms_norm(part[..., : spec.rank], norm, spec.norm_eps), kv)
            self.decide([up], self._statistics(latents))
        return over_parts(self.inner.latent_attention, q, kv, norm, up, layer, spec, selected)

    def _wants(self, *names: str) -> bool:
        return any(name in self.wanted for name in names)

    def _product(self, x: Tensor, name: str, weight: Tensor) -> Tensor:
        bias = self.inner.weight(f"{name}.bias")
        if not self.beside:
            return F.linear(x, weight, bias)
        ours, original = x.chunk(2)
        return torch.cat((F.linear(ours, weight, bias), self.inner.linear(original, name)))

    def _statistics(self, x: Parts) -> Statistics:
        if self.last is None or self.last[0] is not x:
            self.last = None
            self.last = (x, gather(map(self._rows, x), len(x)))
        return self.last[1]

    def experts(self, x: Parts, routes: Parts, name: str, spec: GateSpec) -> Parts:
        """One expert at a time: its tokens count as the square of their gates; where they are few, all tokens count a little."""
        if not self._wants(*(f"{name}.{e}.{part}_proj" for e in range(spec.experts) for part in ("gate", "up", "down"))):
            return over_parts(self.inner.experts, x, routes, name, spec)
        self.last = None
        rows = torch.cat([self._ours(part).flatten(0, -2) for part in x])  # [tokens, hidden]
        chosen, gates = (torch.cat([self._routed(x, r)[i] for x, r in zip(x, routes, strict=True)]) for i in (0, 1))
        y = torch.zeros(rows.shape)
        for e in range(spec.experts):
            token, place = (chosen == e).nonzero(as_tuple=True)
            gate = gates[token, place]
            y.index_add_(0, token, self._expert(rows, token, gate, f"{name}.{e}").float() * gate[:, None])
        shapes = [self._ours(part).shape for part in x]
        outputs = y.to(self.dtype).split([shape[:-1].numel() for shape in shapes])
        mixed = Parts(x.spool, (output.view(shape) for output, shape in zip(outputs, shapes, strict=True)))
        if not self.beside:
            return mixed
        return over_parts(lambda ours, part, r: torch.cat((ours, self._original(part, r, name, spec))), mixed, x, routes)

    def _expert(self, rows: Tensor, token: Tensor, gate: Tensor, name: str) -> Tensor:
        """Outputs of its tokens, [tokens, hidden]."""
        own, floor = gate.square(), FLOOR * rows.shape[1]
        sample = torch.arange(0, len(rows), max(len(rows) // floor, 1))  # of all tokens, evenly; they count as `floor` of its own
        if len(token) >= floor:
            sample = sample[:0]
        typical = own.mean() if len(token) else torch.ones(())
        weight = torch.cat((own, (typical * floor / max(len(sample), 1)).expand(len(sample))))
        x = rows[torch.cat((token, sample))]
        gate_up = self.decide([f"{name}.gate_proj", f"{name}.up_proj"], gather_weighted(x, weight, len(token)))
        g, u = (F.linear(x, w) for w in gate_up)
        h = F.silu(g) * u
        (down,) = self.decide([f"{name}.down_proj"], gather_weighted(h, weight, len(token)))
        return F.linear(h[: len(token)], down)

    def _rows(self, part: Tensor) -> tuple[Tensor, Tensor | None]:
        """[rows, in], and those of the original model."""
        if not self.beside:
            return part.flatten(0, -2), None
        ours, original = part.chunk(2)
        return ours.flatten(0, -2), original.flatten(0, -2)

    def _ours(self, part: Tensor) -> Tensor:
        return part.chunk(2)[0] if self.beside else part

    def _routed(self, part: Tensor, routes: Routes) -> Routes:
        count = self._ours(part)[..., 0].numel()
        return Routes(routes.chosen[:count], routes.weights[:count])

    def _original(self, part: Tensor, routes: Routes, name: str, spec: GateSpec) -> Tensor:
        x = part.chunk(2)[1]
        count = x[..., 0].numel()
        return self.inner.experts(x, Routes(routes.chosen[count:], routes.weights[count:]), name, spec)
