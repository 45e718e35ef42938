"""What goes into a model's products, block after block: their Hessians, those of one block at a time in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from deepseek_cli.compress.shape import Shape
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.tensors import HeldWeights

PART = 4  # windows that are computed at once
DAMPING = 0.01  # of a Hessian's mean diagonal

Weight = Callable[[str], Tensor | None]
OnBlock = Callable[[int, Mapping[str, Tensor], Weight], Mapping[str, Tensor] | None]


class Gathering(TorchOps):
    """Computes, and sums xxᵀ over the inputs of each product that is wanted."""

    def __init__(self, weights: Callable[[str], Tensor | None], wanted: Callable[[str], bool]) -> None:
        super().__init__(weights)
        self.wanted = wanted
        self.hessians: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}

    def linear(self, x: Tensor, name: str) -> Tensor:
        if self.wanted(name) and x.numel():
            rows = x.flatten(0, -2).float()
            if name not in self.hessians:
                self.hessians[name], self.tokens[name] = torch.zeros(rows.shape[1], rows.shape[1]), 0
            self.hessians[name].addmm_(rows.T, rows)
            self.tokens[name] += len(rows)
        return super().linear(x, name)


@torch.no_grad()
def each_block(shape: Shape, wanted: Callable[[str], bool], on_block: OnBlock) -> None:
    """Call `on_block(layer, hessians, weight)` behind each block, with the mean Hessian of what goes into each wanted product.

    `weight` gives the block's weights by full name. Where `on_block` gives others for some, the next block sees what they do.
    """
    arch, config, weights = shape.handle.architecture, shape.handle.config, HeldWeights(shape.handle.weights)
    xs = [arch.embed(TorchOps(weights), config, part) for part in shape.windows.split(PART)]
    for layer in range(config.layers):
        weights.forget()
        ops = Gathering(weights, wanted)
        outputs = [arch.block(ops, config, x, layer) for x in xs]
        means = {name: hessian / ops.tokens[name] for name, hessian in ops.hessians.items()}
        if changed := on_block(layer, means, weights):
            weights.held.update(changed)
            outputs = [arch.block(TorchOps(weights), config, x, layer) for x in xs]
        xs = outputs


def damped(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    result = hessian.clone()
    result.diagonal().add_(damping * hessian.diagonal().mean().clamp_min(1e-20))
    return result


def removal_error(weight: Tensor, hessian: Tensor) -> Tensor:
    """By how much outputs change, at the least, when an input goes and all others make good for it, [in] (OBS, eq. 5)."""
    return weight.square().sum(0) / torch.linalg.inv(damped(hessian)).diagonal().clamp_min(1e-20)


def made_good(weight: Tensor, hessian: Tensor, kept: Tensor) -> Tensor:
    """[out, kept]: the least squares from the inputs that stay to what all of them gave."""
    inner = damped(hessian)
    return torch.linalg.solve(inner[kept][:, kept], inner[kept] @ weight.T).T
