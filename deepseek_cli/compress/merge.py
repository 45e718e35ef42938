"""Experts that go are merged into the nearest that stay, each of which then has the best channels, and the tokens, of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.compress.inputs import damped, made_good
from deepseek_cli.compress.mixture import Mixture, parts
from deepseek_cli.ops.torch_ops import TorchOps

NEAR = 256  # tokens of an expert, whose outputs say which other expert is near


class Expert(NamedTuple):
    gate: Tensor  # [width, hidden]
    up: Tensor
    down: Tensor  # [hidden, width]
    counts: Tensor  # [tokens]


def merged(whole: Mixture, smaller: Mixture, kept: Sequence[int], x: Tensor) -> Mixture:
    """`smaller`, which has the experts `kept` of `whole`, each with those merged into it that were nearest to it at `x`."""
    counts, logits = whole.counts(x), whole.logits(x)
    stay = {k: _expert(whole, k, counts) for k in kept}
    wishes = {k: logits[:, k] for k in kept}
    for gone, k in heirs(whole, kept, counts, x).items():
        stay[k] = absorbed(stay[k], _expert(whole, gone, counts), x)
        wishes[k] = wishes[k].maximum(logits[:, gone])
    found = dict[str, Tensor]()
    for place, expert in enumerate(stay.values()):
        names = (f"{name}.weight" for name in parts(smaller.expert(place)))
        found |= dict(zip(names, expert[:3], strict=True))
    change = torch.linalg.solve(damped(x.T @ x), x.T @ (torch.stack(list(wishes.values()), 1) - logits[:, list(kept)])).T
    router = f"{smaller.gate}.weight"
    return smaller.having({**found, router: smaller.weights[router] + change})


def heirs(whole: Mixture, kept: Sequence[int], counts: Tensor, x: Tensor) -> Mapping[int, int]:
    """By expert that goes, the one that stays whose outputs are closest to its own at tokens that chose it."""
    ops, found = TorchOps(whole.weights), dict[int, int]()
    for e in range(whole.spec.experts):
        seen = counts[:, e].nonzero()[:NEAR, 0]
        if e in kept or not len(seen):
            continue
        own, count = ops.gated_mlp(x[seen], *parts(whole.expert(e))), counts[seen, e, None]
        far = [float(((ops.gated_mlp(x[seen], *parts(whole.expert(k))) - own) * count).square().sum()) for k in kept]
        found[e] = kept[far.index(min(far))]
    return found


def absorbed(a: Expert, b: Expert, x: Tensor) -> Expert:
    """As many channels as `a` has, of both, by what the others cannot make good for; and the tokens of both."""
    counts = a.counts + b.counts
    seen = counts.nonzero()[:, 0]
    gate, up, down = torch.cat((a.gate, b.gate)), torch.cat((a.up, b.up)), torch.cat((a.down, b.down), 1)
    channels = F.silu(x[seen] @ gate.T) * (x[seen] @ up.T)
    each = torch.cat([e.counts[seen, None].expand(-1, len(e.gate)) for e in (a, b)], 1)
    wanted, given = (channels * each) @ down.T, channels * counts[seen, None]
    hessian = given.T @ given / len(seen)
    both = torch.linalg.solve(damped(hessian), given.T @ wanted / len(seen)).T
    best = survivors(both, hessian, len(a.gate))
    return Expert(gate[best], up[best], made_good(both, hessian, best), counts)


def survivors(weight: Tensor, hessian: Tensor, count: int) -> Tensor:
    """The inputs that are left when one after another goes that all others best make good for (OBS), [count]"""
    inverse, weight, gone = torch.linalg.inv(damped(hessian)), weight.clone(), torch.zeros(len(hessian), dtype=torch.bool)
    while len(gone) - int(gone.sum()) > count:
        errors = weight.square().sum(0) / inverse.diagonal().clamp_min(1e-20)
        worst = int(errors.masked_fill(gone, float("inf")).argmin())
        gone[worst] = True
        row = inverse[worst] / inverse[worst, worst].clamp_min(1e-20)
        weight -= torch.outer(weight[:, worst], row)
        inverse -= torch.outer(inverse[:, worst], row)
    return (~gone).nonzero()[:, 0]


def _expert(mixture: Mixture, e: int, counts: Tensor) -> Expert:
    gate, up, down = (mixture.weights[f"{name}.weight"] for name in parts(mixture.expert(e)))
    return Expert(gate, up, down, counts[:, e])
