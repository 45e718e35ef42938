"""The interpreter that calibrates: a weight is quantized the moment its inputs are known, and what follows sees the result.

One pass over a block thus measures each weight's inputs in the model as it will be, its predecessors quantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.ops import GateSpec, IndexSpec, LatentSpec
from deepseek_cli.ops.torch_experts import Routes
from deepseek_cli.ops.torch_parts import Parts, PartsOps, over_parts
from deepseek_cli.quantize.rounding import Expert, Weights, round_expert
from deepseek_cli.quantize.statistics import Statistics, gather

EMBEDDING = 0.1  # of the mean of all inputs: what each of them counts more where the head's rows begin tokens, too
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")  # of an expert


class CalibratingOps(PartsOps):
    """With `beside` the original model runs along, as a second half of each part's batch."""

    def __init__(self, weights: Weights, beside: bool = False) -> None:
        super().__init__(weights.weight)
        self.weights, self.dtype, self.beside = weights, weights.dtype, beside
        self.last: tuple[Any, Statistics] | None = None  # several products may take one input, one after another

    def embed(self, tokens: Parts, name: str) -> Parts:
        x = over_parts(lambda part: self.inner.embed(part, name).to(self.dtype), tokens)
        return over_parts(lambda part: torch.cat((part, part)), x) if self.beside else x

    def linears(self, x: Parts, names: Sequence[str]) -> list[Parts]:
        if not self.weights.wants(*names):
            return super().linears(x, names)
        replaced = self.weights.decide(names, self._statistics(x))
        return [over_parts(self._product, x, name, weight) for name, weight in zip(names, replaced, strict=True)]

    def index(self, x: Parts, q_latent: Parts, name: str, layer: int, spec: IndexSpec) -> Parts:
        """Which keys are chosen is left to the original weights."""
        for weight, inputs in ((f"{name}.wq_b", q_latent), (f"{name}.wk", x)):
            if self.weights.wants(weight):
                self.weights.decide([weight], self._statistics(inputs))
        return over_parts(self.inner.index, x, q_latent, name, layer, spec)

    def latent_attention(
        self, q: Parts, kv: Parts, norm: str, up: str, layer: int, spec: LatentSpec, selected: Parts | None = None
    ) -> Parts:
        """`up` is split and moved around by every backend: it is computed with as it was."""
        if self.weights.wants(up):
            latents = over_parts(lambda part: self.inner.rms_norm(part[..., : spec.rank], norm, spec.norm_eps), kv)
            self.weights.decide([up], self._statistics(latents))
        return over_parts(self.inner.latent_attention, q, kv, norm, up, layer, spec, selected)

    def _product(self, x: Tensor, name: str, weight: Tensor) -> Tensor:
        bias = self.inner.weight(f"{name}.bias")
        if not self.beside:
            return F.linear(x, weight, bias)
        ours, original = x.chunk(2)
        return torch.cat((F.linear(ours, weight, bias), self.inner.linear(original, name)))

    def round_head(self, x: Parts, name: str, embeds: bool) -> None:
        """By what comes out of the last norm; towards the weight itself, since the head of the original is no other."""
        ours = ((self._rows(part)[0], None) for part in x)
        found = gather(ours, len(x))
        self.weights.decide_rows(name, found.flattened(EMBEDDING) if embeds else found)

    def _statistics(self, x: Parts) -> Statistics:
        if self.last is None or self.last[0] is not x:
            self.last = None
            self.last = (x, gather(map(self._rows, x), len(x)))
        return self.last[1]

    def experts(self, x: Parts, routes: Parts, name: str, spec: GateSpec) -> Parts:
        """Each expert by the tokens that are routed to it; no expert waits for another."""
        names = [f"{name}.{e}" for e in range(spec.experts)]
        if not self.weights.wants(*(f"{expert}.{part}" for expert in names for part in PROJECTIONS)):
            return over_parts(self.inner.experts, x, routes, name, spec)
        self.last = None
        rows = torch.cat([self._ours(part).flatten(0, -2) for part in x])  # [tokens, hidden]
        chosen, gates = (torch.cat([self._routed(x, r)[i] for x, r in zip(x, routes, strict=True)]) for i in (0, 1))
        y = torch.zeros(rows.shape)
        routed = [(chosen == e).nonzero(as_tuple=True) for e in range(spec.experts)]
        experts = (
            Expert(expert, self.weights.part([f"{expert}.{part}" for part in PROJECTIONS]), token, gates[token, place])
            for expert, (token, place) in zip(names, routed, strict=True)
        )
        found = self.weights.engine.all_threads(round_expert, experts, rows)
        for (token, place), (output, rounded) in zip(routed, found, strict=True):
            y.index_add_(0, token, output.float() * gates[token, place][:, None])
            self.weights.rounded.add(rounded)
        shapes = [self._ours(part).shape for part in x]
        outputs = y.to(self.dtype).split([shape[:-1].numel() for shape in shapes])
        mixed = Parts(x.spool, (output.view(shape) for output, shape in zip(outputs, shapes, strict=True)))
        if not self.beside:
            return mixed
        return over_parts(lambda ours, part, r: torch.cat((ours, self._original(part, r, name, spec))), mixed, x, routes)

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
