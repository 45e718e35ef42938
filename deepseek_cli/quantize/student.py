"""A quantized model that learns from its original, block by block.

Forward goes over the blocks without a graph and keeps the input of each. The loss's gradient is made at the head, a few positions
at a time. Backward computes each block once more, now with a graph, and its scales learn before the block below has its turn.
Where there is memory for the graphs of all blocks, they may be kept instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.ahead import in_order
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.ops.torch_parts import fastest_dtype
from deepseek_cli.quantize.fake import FakeQuantized
from deepseek_cli.tensors import CorrectedTensor, HeldWeights, QuantizedTensor, TensorRef

PART = 4  # windows that are computed at once where nothing is learned
POSITIONS = 128  # whose logits are held at once
ROWS = 8  # of these whose probabilities are: so many stay in the cache from one operation to the next
BLOCKS = "model.layers."
GRAPH = 48  # values a token that one block's graph holds, in its hidden sizes
NOTHING: Mapping[int, Tensor] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Run:
    """A block's way from `x` to `y`, with a graph where it is to be learned from; else `weights` are let go."""

    x: Tensor
    weights: Mapping[str, Tensor]
    y: Tensor


class NarrowOps(TorchOps):
    """Logits as they come out of the product, not widened."""

    def head(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weight(name))


class Student:
    """`learning` by name with `.weight`, rows in the operators' order.

    What `codes` has outside of blocks stays as it is there, and all else as the original has it.
    """

    keeps_graphs = False
    operators = TorchOps  # of its blocks

    def __init__(self, handle: ModelHandle, codes: Mapping[str, TensorRef], dtype: torch.dtype) -> None:
        self.arch, self.config, self.dtype, self.refs = handle.architecture, handle.config, dtype, handle.weights
        outer = {name: ref for name, ref in codes.items() if not name.startswith(BLOCKS)}
        self.order = {name: torch.tensor(rows) for name, rows in self.arch.row_order(self.config).items()}
        self._frozen = HeldWeights({**self.refs, **outer}, dtype)
        self._original = HeldWeights(self.refs, dtype) if outer else self._frozen
        names = [name for name in codes if name in self.refs and name not in outer]  # the layer that drafts predicts nothing
        begun = in_order(lambda name: self._begin(name, codes[name]), names)
        self.learning = dict(zip(names, begun, strict=True))

    def _begin(self, name: str, ref: TensorRef) -> Any:
        quantized = ref.read()
        assert isinstance(quantized, QuantizedTensor | CorrectedTensor)
        return FakeQuantized(quantized.rows(self.order[name]) if name in self.order else quantized)

    def export(self, name: str) -> QuantizedTensor | CorrectedTensor:
        """As it goes on disk."""
        quantized: QuantizedTensor | CorrectedTensor = self.learning[name].export()
        return quantized.rows(self.order[name].argsort()) if name in self.order else quantized

    def step(
        self,
        tokens: Tensor,
        original: Tensor,
        rate: float,
        within: Mapping[int, Tensor] = NOTHING,
        weight: float = 0.0,
    ) -> float:
        """One step of all that learns down the loss on `tokens` [batch, length]; gives the loss before it.

        `within` is what should go into some blocks, in any scale; how far it is from that counts `weight` times.
        """
        runs = self._forward(tokens, self.keeps_graphs)
        loss, gradient = self._loss(runs[-1].y.detach(), original, learn=True)
        while runs:
            run, block = runs.pop(), len(runs)
            if not self.keeps_graphs:
                run = self._run(run.x, block, learn=True)
            run.y.backward(gradient)
            assert run.x.grad is not None
            gradient = run.x.grad
            if block in within:
                distance, pull = apart(run.x.detach(), within[block])
                loss += weight * distance
                gradient.add_(pull, alpha=weight)
            slopes = {name: w.grad for name, w in run.weights.items() if w.grad is not None}  # an expert may have met no token
            for _ in in_order(lambda name: self.learning[name].learn(slopes[name], rate), slopes):  # noqa: B023
                pass
        return loss

    def score(self, tokens: Tensor, original: Tensor) -> float:
        """The mean KL divergence from the original's predictions."""
        parts = zip(tokens.split(PART), original.split(PART), strict=True)
        return sum(self._loss(self._forward(t)[-1].y, h, learn=False)[0] * len(t) for t, h in parts) / len(tokens)

    def _forward(self, tokens: Tensor, learn: bool = False) -> list[Run]:
        with torch.no_grad():
            x: Tensor = self.arch.embed(TorchOps(self._frozen), self.config, tokens)
        runs = list[Run]()
        for block in range(self.config.layers):
            runs.append(self._run(x, block, learn))
            x = runs[-1].y
        return runs

    def _run(self, x: Tensor, block: int, learn: bool) -> Run:
        x, weights = x.detach().requires_grad_(learn), self._weights(block, learn)
        with torch.set_grad_enabled(learn):
            y = self._block(x, weights, block)
        return Run(x, weights if learn else {}, y)

    def _block(self, x: Tensor, weights: Mapping[str, Tensor], block: int) -> Tensor:
        ops = self.operators(lambda name: weights[name] if name in weights else self._frozen(name))
        y: Tensor = self.arch.block(ops, self.config, x, block)
        return y

    def _weights(self, block: int, learn: bool) -> dict[str, Tensor]:
        names = [name for name in self.learning if name.startswith(f"{BLOCKS}{block}.")]
        values = in_order(lambda name: self.learning[name].dense(self.dtype), names)
        return {name: value.requires_grad_(learn) for name, value in zip(names, values, strict=True)}

    def _loss(self, x: Tensor, original: Tensor, learn: bool) -> tuple[float, Tensor]:
        """The loss of what comes out of the last block, [batch, length, hidden], and its gradient."""
        ops, theirs, total = NarrowOps(self._frozen), NarrowOps(self._original), 0.0
        gradient = torch.empty_like(x) if learn else x
        flat, wanted, slopes = x.flatten(0, 1), original.flatten(0, 1), gradient.flatten(0, 1)
        for start in range(0, len(flat), POSITIONS):
            rows = slice(start, start + POSITIONS)
            part = flat[None, rows].detach().requires_grad_(learn)
            with torch.set_grad_enabled(learn):
                ours = self.arch.head(ops, self.config, self.arch.norm(ops, self.config, part))
            with torch.no_grad():
                said = self.arch.head(theirs, self.config, wanted[rows][None])  # [None, rows] goes by batches: a copy of the head
                slope = said if learn else None  # the gradient may have its memory
                total += divergence(said, ours.detach(), slope)
            if learn:
                ours.backward(slope)
                slopes[rows] = part.grad[0] / len(flat)  # type: ignore[index]
        return total / len(flat), gradient


def graph_bytes(handle: ModelHandle, tokens: int) -> int:
    """What the graphs of all blocks hold of a step over so many tokens."""
    return fastest_dtype().itemsize * GRAPH * tokens * handle.config.hidden * handle.config.layers


@torch.no_grad()
def last_hidden(handle: ModelHandle, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """What the original's head sees of `tokens`, [windows, length, hidden]; one block's weights at a time."""
    arch, config, weights = handle.architecture, handle.config, HeldWeights(handle.weights, dtype)
    ops = TorchOps(weights)
    xs = [arch.embed(ops, config, part) for part in tokens.split(PART)]
    for block in range(config.layers):
        weights.forget()
        xs = [arch.block(ops, config, x, block) for x in xs]
    return torch.cat([arch.norm(ops, config, x) for x in xs])


def apart(x: Tensor, aim: Tensor) -> tuple[float, Tensor]:
    """The mean square between states [..., hidden], each of root mean square 1, as a mean over positions; and its gradient."""
    wide = x.float().requires_grad_()
    distance = (2 - 2 * F.cosine_similarity(wide, aim.float(), dim=-1)).mean()
    (gradient,) = torch.autograd.grad(distance, wide)
    return float(distance.detach()), gradient.to(x.dtype)


def divergence(original: Tensor, ours: Tensor, slope: Tensor | None = None) -> float:
    """The sum over positions of the KL divergence, from logits [..., vocabulary]; its gradient by `ours` goes into `slope`.

    That may be the memory of `original`.
    """
    total = 0.0
    flat = [t.flatten(0, -2) for t in (original, ours, original if slope is None else slope)]
    for wanted, given, place in zip(*(t.split(ROWS) for t in flat), strict=True):
        a, b = wanted.float(), given.float()
        p, q = a.softmax(-1), b.softmax(-1)
        value = _log_sum(b, q) - _log_sum(a, p)
        total += float((value + (a - b).mul_(p).sum(-1)).sum())  # linalg.vecdot would copy both
        if slope is not None:
            place.copy_(q.sub_(p))
    return total


def _log_sum(logits: Tensor, softmax: Tensor) -> Tensor:
    """logsumexp(-1), for two maxima more where the softmax is known."""
    return logits.amax(-1) - softmax.amax(-1).log()
