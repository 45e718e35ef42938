"""Fewer experts. In each layer those go whose absence changes least what the layer gives, tokens routed anew without them.

That is measured on tokens of calibration text, the experts leaving one by one; where a layer has too many experts for that,
they go by what they contribute, gate times norm of their output, on average over their tokens (REAP, arXiv 2510.13999).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from deepseek_cli.compress.shape import Context, Shape, picked
from deepseek_cli.compress.steps import Step, parse_share
from deepseek_cli.errors import UsageError
from deepseek_cli.ops import GateSpec
from deepseek_cli.ops.torch_experts import Routes, choose
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.refs import TensorRef
from deepseek_cli.tensors import HeldWeights

HELD_BYTES = 256 << 20  # of all experts' outputs of a layer, at once
FEWEST_TOKENS = 128  # to measure absence on
PARTS = ("gate_proj", "up_proj", "down_proj")

Ranks = Mapping[str, list[int]]  # by the prefix of a layer's experts, the first to go first


def refuse(shape: Shape, amount: str) -> None:
    if not getattr(shape.handle.config, "gate", None):
        raise UsageError("{model} has no experts.", hint="Leave experts out of --steps.", model=shape.handle.name)
    if amount:
        parse_share("experts", amount)


def rank(shape: Shape, context: Context) -> Ranks:
    """The order in which the experts of each layer leave, of the layer that drafts too."""
    handle, windows = shape.handle, shape.windows
    weights = HeldWeights({**handle.weights, **handle.draft_weights})
    ops, arch, config = Ranking(weights), handle.architecture, handle.config
    total = config.layers + bool(handle.draft_weights)
    with torch.inference_mode():
        x = arch.embed(ops, config, windows)
        for layer in range(config.layers):
            weights.forget()
            x = arch.block(ops, config, x, layer)
            context.reporter.progress("rank experts", layer + 1, total)
        if handle.draft_weights and arch.draft:
            weights.forget()
            arch.draft(ops, config, windows[:, 1:], arch.norm(ops, config, x)[:, :-1])
            context.reporter.progress("rank experts", total, total)
    return ops.orders


class Ranking(TorchOps):
    """Computes, and ranks the experts of each layer that it meets."""

    def __init__(self, weights: HeldWeights) -> None:
        super().__init__(weights)
        self.orders: dict[str, list[int]] = {}
        self.logits = torch.empty(0)
        self.bias: Tensor | None = None

    def route(self, x: Tensor, name: str, spec: GateSpec) -> Routes:
        self.logits = torch.nn.functional.linear(x.float(), self._weight(name).float()).flatten(0, -2)
        self.bias = self.weight(f"{name}.e_score_correction_bias") if spec.corrected else None
        return choose(self.logits, self.bias, spec)

    def experts(self, x: Tensor, routes: Routes, name: str, spec: GateSpec) -> Tensor:
        rows = x.flatten(0, -2)
        tokens = min(HELD_BYTES // (4 * spec.experts * rows.shape[1]), len(rows))
        if tokens >= min(FEWEST_TOKENS, len(rows)):
            some = torch.linspace(0, len(rows) - 1, tokens).long()
            outputs = torch.stack([self._expert(rows[some], name, e).float() for e in range(spec.experts)])
            self.orders[name] = leaving(outputs, self.logits[some], self.bias, spec)
        else:
            self.orders[name] = self._by_contribution(rows, routes, name, spec)
        return super().experts(x, routes, name, spec)

    def _expert(self, rows: Tensor, name: str, e: int) -> Tensor:
        gate, up, down = (f"{name}.{e}.{part}" for part in PARTS)
        return self.gated_mlp(rows, gate, up, down)

    def _by_contribution(self, rows: Tensor, routes: Routes, name: str, spec: GateSpec) -> list[int]:
        scores = torch.zeros(spec.experts)
        for e in routes.chosen.unique().tolist():
            token, place = (routes.chosen == e).nonzero(as_tuple=True)
            scores[e] = (self._expert(rows[token], name, e).norm(dim=-1) * routes.weights[token, place]).mean()
        return [int(e) for e in scores.argsort(stable=True)]


def leaving(outputs: Tensor, logits: Tensor, bias: Tensor | None, spec: GateSpec) -> list[int]:
    """Experts in the order in which they leave, each the one without which the mixture stays nearest to what it was.

    outputs [experts, tokens, hidden], logits [tokens, experts]
    """
    wanted = mixed(outputs, choose(logits, bias, spec))
    left, order = list(range(spec.experts)), list[int]()
    while len(left) > max(spec.top_k, 1):
        errors = []
        for e in left:
            rest = torch.tensor([other for other in left if other != e])
            routes = choose(logits[:, rest], None if bias is None else bias[rest], _ungrouped(spec, len(rest)))
            errors.append(float((mixed(outputs, Routes(rest[routes.chosen], routes.weights)) - wanted).square().sum()))
        order.append(left.pop(min(range(len(left)), key=errors.__getitem__)))
    return order + left


def mixed(outputs: Tensor, routes: Routes) -> Tensor:
    """[tokens, hidden]"""
    tokens = torch.arange(outputs.shape[1])[:, None]
    return (outputs[routes.chosen, tokens] * routes.weights[..., None]).sum(1)


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
