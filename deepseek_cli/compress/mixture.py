"""A mixture of experts as a function of what goes into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.ops import GateSpec
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.tensors import HeldWeights

PARTS = ("gate_proj", "up_proj", "down_proj")

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Mixture:
    """A router, its experts and the shared one; `weights` by full name, all of them under the prefix `name`."""

    name: str
    spec: GateSpec
    weights: Weights

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] to the same"""
        ops = TorchOps(self.weights)
        y = ops.experts(x, ops.route(x, self.gate, self.spec), f"{self.name}.experts", self.spec)
        return y + ops.gated_mlp(x, *parts(self.shared)) if self.shares else y

    def logits(self, x: Tensor) -> Tensor:
        """[tokens, experts]"""
        return F.linear(x, self.weights[f"{self.gate}.weight"])

    def counts(self, x: Tensor) -> Tensor:
        """What each expert's output counts, [tokens, experts]"""
        chosen, counts = TorchOps(self.weights).route(x, self.gate, self.spec)
        return torch.zeros(len(x), self.spec.experts).scatter(1, chosen, counts)

    def into_down(self, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Of each projection down: its name, the tokens that it sees, and what goes into it for them, [seen, width]."""
        ops, counts = Channels(self.weights), self.counts(x)
        for e in range(self.spec.experts):
            names, seen = parts(self.expert(e)), counts[:, e].nonzero()[:, 0]
            yield f"{names[2]}.weight", seen, ops.gated_mlp(x[seen], *names) * counts[seen, e, None]
        if self.shares:
            names = parts(self.shared)
            yield f"{names[2]}.weight", torch.arange(len(x)), ops.gated_mlp(x, *names)

    def having(self, weights: Weights) -> Mixture:
        return replace(self, weights={**self.weights, **weights})

    def expert(self, e: int) -> str:
        return f"{self.name}.experts.{e}"

    @property
    def gate(self) -> str:
        return f"{self.name}.gate"

    @property
    def shared(self) -> str:
        return f"{self.name}.shared_experts"

    @property
    def shares(self) -> bool:
        return f"{self.shared}.down_proj.weight" in self.weights


class Channels(TorchOps):
    """Stops in front of each projection down."""

    def gated_mlp(self, x: Tensor, gate: str, up: str, down: str) -> Tensor:
        g, u = self.linears(x, [gate, up])
        return F.silu(g) * u


def parts(name: str) -> list[str]:
    return [f"{name}.{part}" for part in PARTS]


def read_mixture(weights: HeldWeights, name: str, spec: GateSpec) -> Mixture:
    under = (n for n in weights.refs if n.startswith(f"{name}."))
    return Mixture(name, spec, {n: value for n in under if (value := weights(n)) is not None})
