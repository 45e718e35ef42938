"""Fewer experts. In each layer those go whose absence changes predictions least, tokens routed anew without them.

They leave one by one; what an absence does is what it changes in the layer's output, along the slope of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from deepseek_cli.compress.shape import Context, Shape, picked
from deepseek_cli.compress.slopes import Seen, each_mixture
from deepseek_cli.compress.steps import Step, parse_share
from deepseek_cli.errors import UsageError
from deepseek_cli.ops import GateSpec
from deepseek_cli.ops.torch_experts import Routes, choose
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.refs import TensorRef

MOST = 1 << 17  # outputs of single experts for single tokens, a layer
FEWEST = 256  # tokens
PARTS = ("gate_proj", "up_proj", "down_proj")

Ranks = Mapping[str, list[int]]  # by the prefix of a layer's experts, the first to go first


def refuse(shape: Shape, amount: str) -> None:
    if not getattr(shape.handle.config, "gate", None):
        raise UsageError("{model} has no experts.", hint="Leave experts out of --steps.", model=shape.handle.name)
    if amount:
        parse_share("experts", amount)


def rank(shape: Shape, context: Context) -> Ranks:
    """The order in which the experts of each layer leave, of the layer that drafts too."""
    orders = [(seen.name, leaving(pushes(seen, weights), seen)) for seen, weights in each_mixture(shape, context)]
    return dict(reversed(orders))


@torch.inference_mode()
def pushes(seen: Seen, weights: Callable[[str], Tensor | None]) -> Tensor:
    """By how much each expert's output alone would move the loss, [experts, tokens]; of large layers at fewer tokens."""
    ops, rows = TorchOps(weights), _some(seen)
    each = [[f"{seen.name}.{e}.{part}" for part in PARTS] for e in range(seen.spec.experts)]
    return torch.stack([torch.linalg.vecdot(ops.gated_mlp(seen.inputs[rows], *names), seen.slopes[rows]) for names in each])


def leaving(pushes: Tensor, seen: Seen) -> list[int]:
    """Experts in the order in which they leave, each the one without which predictions change least."""
    logits, bias, spec = seen.logits[_some(seen)], seen.bias, seen.spec
    wanted = mixed(pushes, choose(logits, bias, spec))
    left, order = list(range(spec.experts)), list[int]()
    while len(left) > max(spec.top_k, 1):
        errors = []
        for e in left:
            rest = torch.tensor([other for other in left if other != e])
            routes = choose(logits[:, rest], None if bias is None else bias[rest], _ungrouped(spec, len(rest)))
            errors.append(float((mixed(pushes, Routes(rest[routes.chosen], routes.weights)) - wanted).square().sum()))
        order.append(left.pop(min(range(len(left)), key=errors.__getitem__)))
    return order + left


def mixed(pushes: Tensor, routes: Routes) -> Tensor:
    """[tokens]"""
    return (pushes.T.gather(1, routes.chosen) * routes.weights).sum(1)


def _some(seen: Seen) -> Tensor:
    """Rows evenly spaced over the tokens, fewer where there are many experts."""
    count = min(len(seen.inputs), max(MOST // seen.spec.experts, FEWEST))
    return torch.linspace(0, len(seen.inputs) - 1, count).long()


def _ungrouped(spec: GateSpec, experts: int) -> GateSpec:
    return replace(spec, experts=experts, groups=1, top_groups=1)


def cut(shape: Shape, rank: Ranks, amount: str, context: Context) -> Shape:
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
    return shape.with_model(config, tensors, *decisions)


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
