"""What each mixture of experts gets and gives, and how the predictions hang on it, layer after layer from the last one back.

A slope is the gradient of -log p of a token that the model itself draws: squared along a change, its mean is twice the KL
divergence that a small change makes (Fisher information), which the size of the change alone says nothing about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.compress.inputs import PART
from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.memory import free_bytes
from deepseek_cli.ops import GateSpec
from deepseek_cli.ops.torch_experts import Routes, choose
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.ops.torch_parts import Parts, Spool
from deepseek_cli.quantize.student import POSITIONS
from deepseek_cli.tensors import HeldWeights

SHARE = 0.25  # of the free memory, for what goes into the blocks; beyond, it lies in files


@dataclass(frozen=True, slots=True)
class Seen:
    """Of the experts under the prefix `name`; every tensor has one row a token."""

    name: str
    spec: GateSpec
    bias: Tensor | None
    inputs: Tensor  # [tokens, hidden]
    logits: Tensor  # [tokens, experts]
    slopes: Tensor  # [tokens, hidden], of what the mixture gives


class Watching(TorchOps):
    """Computes, with a graph, and keeps what goes through the mixture that it meets."""

    def __init__(self, weights: HeldWeights) -> None:
        super().__init__(weights)
        self.met: list[tuple[str, GateSpec, Tensor, Tensor]] = []

    def route(self, x: Tensor, name: str, spec: GateSpec) -> Routes:
        self.logits = F.linear(x.float(), self._weight(name).float()).flatten(0, -2)
        self.bias = self.weight(f"{name}.e_score_correction_bias") if spec.corrected else None
        return choose(self.logits, self.bias, spec)

    def experts(self, x: Tensor, routes: Routes, name: str, spec: GateSpec) -> Tensor:
        y = super().experts(x, routes, name, spec)
        y.retain_grad()
        self.met.append((name, spec, x, y))
        return y

    def seen(self) -> list[Seen]:
        """Once the gradient came by; nothing in a layer without experts."""
        found = []
        for name, spec, x, y in self.met:
            assert y.grad is not None
            rows = (t.detach().flatten(0, -2) for t in (x, self.logits, y.grad))
            found.append(Seen(name, spec, self.bias, *rows))
        return found


def each_mixture(shape: Shape, context: Context) -> Iterator[tuple[Seen, Callable[[str], Tensor | None]]]:
    """Each layer that has experts, from the last, with the weights of its block; the layer that drafts is the first."""
    handle = shape.handle
    arch, config, total = handle.architecture, handle.config, handle.config.layers
    weights = HeldWeights({**handle.weights, **handle.draft_weights})
    context.folder.mkdir(parents=True, exist_ok=True)
    spool = Spool(int(SHARE * free_bytes()), context.folder / "inputs")
    tokens = shape.windows.split(PART)
    with torch.no_grad():
        inputs = [Parts(spool, (arch.embed(TorchOps(weights), config, part) for part in tokens))]
        for layer in range(total):
            weights.forget()
            inputs.append(Parts(spool, (arch.block(TorchOps(weights), config, x, layer) for x in inputs[-1])))
    weights.forget()
    last = inputs.pop()
    if handle.draft_weights and arch.draft:
        drafted = (_drafting(shape, weights, *part) for part in zip(last, tokens, strict=True))
        yield together(list(drafted)), weights
    ahead = Parts(spool, (_head_slope(shape, weights, arch.norm, x) for x in last))
    for layer in reversed(range(total)):
        weights.forget()
        behind, found = [], list[Seen]()
        for x, slope in zip(inputs.pop(), ahead, strict=True):
            x, ops = x.clone().requires_grad_(), Watching(weights)
            with torch.enable_grad():
                arch.block(ops, config, x, layer).backward(slope)
            assert x.grad is not None
            behind.append(x.grad)
            found += ops.seen()
        ahead = Parts(spool, behind)
        if found:
            yield together(found), weights
        context.reporter.progress("rank experts", total - layer, total)


def _drafting(shape: Shape, weights: HeldWeights, x: Tensor, tokens: Tensor) -> Seen:
    arch, config, ops = shape.handle.architecture, shape.handle.config, Watching(weights)
    assert arch.draft
    with torch.enable_grad():
        normed = arch.norm(ops, config, x.clone().requires_grad_())
        drafted = arch.draft(ops, config, tokens[:, 1:], normed[:, :-1])
        drafted.backward(_head_slope(shape, weights, lambda ops, config, part: part, drafted))
    (seen,) = ops.seen()
    return seen


def _head_slope(shape: Shape, weights: HeldWeights, norm: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Of -log p of one drawn token a position, by what comes out of the last block, [batch, length, hidden]."""
    arch, config, ops = shape.handle.architecture, shape.handle.config, TorchOps(weights)
    draws, slopes = torch.Generator().manual_seed(0), list[Tensor]()
    for part in x.detach().flatten(0, 1).split(POSITIONS):
        part = part[None].clone().requires_grad_()
        with torch.enable_grad():
            logits = arch.head(ops, config, norm(ops, config, part))
        p = logits.detach().softmax(-1)
        drawn = p[0].multinomial(1, generator=draws)[None]
        logits.backward(p.scatter_add(-1, drawn, torch.full(drawn.shape, -1.0)))
        assert part.grad is not None
        slopes.append(part.grad[0])
    return torch.cat(slopes).view_as(x)


def together(parts: Sequence[Seen]) -> Seen:
    """Parts of a text as one."""
    inputs, logits, slopes = (torch.cat(rows) for rows in zip(*((p.inputs, p.logits, p.slopes) for p in parts), strict=True))
    return replace(parts[0], inputs=inputs, logits=logits, slopes=slopes)
