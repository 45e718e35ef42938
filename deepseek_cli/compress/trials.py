"""The model without some of its experts: what its predictions lose, measured, layer after layer from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import geometric_mean

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.compress.depth import Runs
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops import GateSpec
from deepseek_cli.ops.torch_experts import Routes, choose
from deepseek_cli.ops.torch_ops import TorchOps

LEAST = 1e-9  # nats, below which a divergence is rounding


def choose_among(left: Sequence[int], logits: Tensor, bias: Tensor | None, spec: GateSpec) -> Routes:
    """How tokens choose where only the experts `left` are there, in one group; they keep their numbers."""
    rest = torch.tensor(left)
    fewer = replace(spec, experts=len(left), groups=1, top_groups=1)
    routes = choose(logits[:, rest], None if bias is None else bias[rest], fewer)
    return Routes(rest[routes.chosen], routes.weights)


class Fewer(TorchOps):
    """Computes with those experts alone that are `left`, by the name of their router."""

    left: Mapping[str, Sequence[int]]

    def route(self, x: Tensor, name: str, spec: GateSpec) -> Routes:
        if name not in self.left:
            return super().route(x, name, spec)
        logits = F.linear(x.float(), self._weight(name).float()).flatten(0, -2)
        bias = self.weight(f"{name}.e_score_correction_bias") if spec.corrected else None
        return choose_among(self.left[name], logits, bias, spec)


class Trials(Runs):
    """`left` says which experts of layers up to the current one are there; all above are whole."""

    def __init__(self, handle: ModelHandle, windows: Tensor) -> None:
        super().__init__(handle)
        self.left: dict[str, Sequence[int]] = {}
        self.ops = Fewer(self.weights)
        self.ops.left = self.left
        self.layer, self.x = 0, self.embed(windows)
        self.original = self.through(self.x, self._above)[-1]

    @property
    def _above(self) -> list[int]:
        return list(range(self.layer, self.handle.config.layers))

    def go_to(self, layer: int) -> None:
        self.x = self.through(self.x, list(range(self.layer, layer)))[-1]
        self.layer = layer

    def divergence_with(self, router: str, left: Sequence[int]) -> float:
        """The KL divergence from the whole model's predictions with these experts of the current layer: its geometric mean over
        windows, or those that lose most, such as conversation, would choose for all."""
        self.left[router] = left
        outputs = self.through(self.x, self._above)[-1]
        each = zip(outputs.split(1), self.original.split(1), strict=True)
        return geometric_mean([max(self.divergences([own], original)[0], LEAST) for own, original in each])
