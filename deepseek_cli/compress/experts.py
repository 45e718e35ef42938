"""Fewer experts. In each layer those go whose absence changes predictions least, tokens routed anew without them.

They leave one by one. What an absence does is what it changes in the layer's output, along the slope of the loss; of small models
the few that do least are also tried. What stays then makes good for what went.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from deepseek_cli.compress.mixture import parts
from deepseek_cli.compress.refit import Kept, refitted
from deepseek_cli.compress.shape import Context, Shape, picked
from deepseek_cli.compress.slopes import Seen, each_mixture
from deepseek_cli.compress.steps import Step, parse_share
from deepseek_cli.compress.trials import Trials, choose_among
from deepseek_cli.errors import UsageError
from deepseek_cli.ops import GateSpec
from deepseek_cli.ops.torch_experts import Routes, choose
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.quantize.calibration import read_calibration
from deepseek_cli.refs import TensorRef

MOST = 1 << 17  # outputs of single experts for single tokens, a layer
FEWEST = 256  # tokens
TRIED = 6  # experts of the least change, each time
TOKENS = 16_384  # of text, in windows
LENGTH = 256  # tokens of each window, on which they are tried
WORK = 2e13  # products that all trials may take

Ranks = Mapping[str, list[int]]  # by the prefix of a layer's experts, the first to go first
Judge = Callable[[Sequence[int]], float]  # of the experts that would be left


def refuse(shape: Shape, amount: str) -> None:
    if not getattr(shape.handle.config, "gate", None):
        raise UsageError("{model} has no experts.", hint="Leave experts out of --steps.", model=shape.handle.name)
    if amount:
        parse_share("experts", amount)


def rank(shape: Shape, context: Context) -> Ranks:
    """The order in which the experts of each layer leave, of the layer that drafts too."""
    if how_many(more := with_text(shape, context)) > 1:
        shape = more
    found = dict[str, tuple[Tensor, Seen]]()
    for seen, weights in each_mixture(shape, context):
        few = _few(seen)
        found[seen.name] = pushes(few, weights), few
    layers, tried = shape.handle.config.layers, how_many(shape)
    trials = Trials(shape.handle, shape.windows[:, :LENGTH]) if tried > 1 else None
    ranks = dict[str, list[int]]()
    for name in reversed(found):  # from the first layer on
        layer, router = int(name.split(".")[2]), f"{name.removesuffix('.experts')}.gate"
        if trials and layer < layers:
            trials.go_to(layer)
            ranks[name] = order = leaving(*found[name], partial(trials.divergence_with, router), tried)
            trials.left[router] = sorted(order[len(order) // 2 :])  # what layers above see, whatever share is asked for
            context.reporter.progress("try experts", layer + 1, layers)
        else:
            ranks[name] = leaving(*found[name])
    return ranks


def with_text(shape: Shape, context: Context) -> Shape:
    """The same with more text: which experts are missed least hangs on it more than on anything else."""
    return replace(shape, windows=read_calibration(shape.tokenizer, context.source, TOKENS, shape.handle.config.context).windows)


def how_many(shape: Shape) -> int:
    """Of how many experts the absence is measured before one leaves: of only one, there is nothing to measure."""
    handle = shape.handle
    once = handle.parameters * len(shape.windows) * LENGTH
    return max(min(TRIED, int(WORK // (once * handle.config.gate.experts * handle.config.layers))), 1)


@torch.inference_mode()
def pushes(seen: Seen, weights: Callable[[str], Tensor | None]) -> Tensor:
    """By how much each expert's output alone would move the loss, [experts, tokens]"""
    ops, names = TorchOps(weights), [parts(f"{seen.name}.{e}") for e in range(seen.spec.experts)]
    return torch.stack([torch.linalg.vecdot(ops.gated_mlp(seen.inputs, *each), seen.slopes) for each in names])


@torch.inference_mode()
def leaving(pushes: Tensor, seen: Seen, judge: Judge | None = None, tried: int = 1) -> list[int]:
    """Experts in the order in which they leave, each the one without which predictions change least.

    The `tried` ones that change least along the slopes come before the judge.
    """
    wanted = mixed(pushes, choose(seen.logits, seen.bias, seen.spec))

    def change(e: int) -> float:
        return float((mixed(pushes, choose_among(others(e), seen.logits, seen.bias, seen.spec)) - wanted).square().sum())

    def others(e: int) -> list[int]:
        return [other for other in left if other != e]

    left, order = list(range(seen.spec.experts)), list[int]()
    while len(left) > max(seen.spec.top_k, 1):
        least = sorted(left, key=change)[:tried]
        order.append(min(least, key=lambda e: judge(others(e))) if judge else least[0])
        left.remove(order[-1])
    return order + left


def mixed(pushes: Tensor, routes: Routes) -> Tensor:
    """[tokens]"""
    return (pushes.T.gather(1, routes.chosen) * routes.weights).sum(1)


def _few(seen: Seen) -> Seen:
    """At tokens evenly spaced, fewer of them where there are many experts."""
    count = min(len(seen.inputs), max(MOST // seen.spec.experts, FEWEST))
    rows = torch.linspace(0, len(seen.inputs) - 1, count).long()
    return replace(seen, inputs=seen.inputs[rows], logits=seen.logits[rows], slopes=seen.slopes[rows])


def cut(shape: Shape, rank: Ranks, amount: str, context: Context) -> Shape:
    smaller, kept = dropped(shape, rank, amount)
    return refitted(shape, smaller, kept, context)


def dropped(shape: Shape, rank: Ranks, amount: str) -> tuple[Shape, Kept]:
    """Without those that go, all others as they are; and which ones these are."""
    gate = shape.handle.config.gate
    count = max(round(gate.experts * (1 - parse_share("experts", amount))), gate.top_k, 2)
    groups = gate.groups if _divides(gate, count) else 1
    top_groups = min(gate.top_groups, groups)
    kept = {name: _kept(order, gate, count, groups) for name, order in rank.items()}
    tensors = dict[str, TensorRef]()
    for name, ref in shape.handle.stored.items():
        tensors |= dict(_renamed(name, ref, kept))
    config = {"n_routed_experts": count, "n_group": groups, "topk_group": top_groups}
    decisions = [{"step": "experts", "layer": name, "kept": ids} for name, ids in kept.items()]
    return shape.with_model(config, tensors, *decisions), kept


def _divides(gate: GateSpec, count: int) -> bool:
    """Whether groups can stay as they are, each with as many experts as its gate looks at."""
    per_group = count // gate.groups
    return count % gate.groups == 0 and per_group >= (2 if gate.corrected else 1) and gate.top_k <= gate.top_groups * per_group


def _kept(order: list[int], gate: GateSpec, count: int, groups: int) -> list[int]:
    """The last to leave, as many of each group."""
    size = gate.experts // groups
    members = ([e for e in order if e // size == group] for group in range(groups))
    return sorted(e for group in members for e in group[len(group) - count // groups :])


def _renamed(name: str, ref: TensorRef, kept: Mapping[str, list[int]]) -> list[tuple[str, TensorRef]]:
    """A tensor as it is called now; experts that went are nothing, a router has only the rows of those that stay."""
    for prefix, ids in kept.items():
        if name.startswith(f"{prefix}."):
            expert, _, part = name.removeprefix(f"{prefix}.").partition(".")
            return [(f"{prefix}.{ids.index(int(expert))}.{part}", ref)] if int(expert) in ids else []
        if name.startswith(f"{prefix.removesuffix('.experts')}.gate."):
            return [(name, picked(ref, torch.tensor(ids)))]
    return [(name, ref)]


STEP = Step(rank, cut, refuse, shares=(0.25, 0.5, 0.75))
