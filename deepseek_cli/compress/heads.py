"""Fewer attention heads, always all that share one key and value; the projection behind them is fitted anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.compress.inputs import damped, each_block
from deepseek_cli.compress.shape import Context, Shape, picked, without
from deepseek_cli.compress.steps import Step, parse_share
from deepseek_cli.compress.width import HESSIAN, ORDER, fitted
from deepseek_cli.errors import UsageError
from deepseek_cli.refs import TensorRef
from deepseek_cli.tensors import dense

Ranks = Mapping[str, TensorRef]
FAMILIES = ("llama", "qwen3")  # whose configs give a head's size; others take it from hidden size and heads


def refuse(shape: Shape, amount: str) -> None:
    config = shape.handle.config
    if config.family not in FAMILIES or config.kv_heads < 2:
        raise UsageError(
            "{model} has no group of attention heads that could go.", hint="Leave heads out of --steps.", model=shape.handle.name
        )
    if amount:
        parse_share("heads", amount)


def rank(shape: Shape, context: Context) -> Ranks:
    config, ranks = shape.handle.config, dict[str, TensorRef]()

    def on_block(layer: int, hessians: Mapping[str, Tensor], weight: Callable[[str], Tensor | None]) -> None:
        for name, hessian in hessians.items():
            projection = weight(f"{name}.weight")
            assert projection is not None
            order = group_errors(projection, hessian, config.kv_heads).argsort(stable=True)
            ranks.update(context.keep(f"{name}.heads", {HESSIAN.format(name): hessian, ORDER.format(name): order}))
        context.reporter.progress("rank heads", layer + 1, shape.handle.config.layers)

    each_block(shape, lambda name: name.endswith(".self_attn.o_proj"), on_block)
    return ranks


def group_errors(weight: Tensor, hessian: Tensor, groups: int) -> Tensor:
    """What `removal_error` is to one input, for each of `groups` equal runs of them: tr(W_g [H⁻¹]_gg⁻¹ W_gᵀ)."""
    inverse, size = torch.linalg.inv(damped(hessian)), weight.shape[1] // groups
    runs = [slice(g * size, (g + 1) * size) for g in range(groups)]
    return torch.stack([(weight[:, r] @ torch.linalg.inv(inverse[r, r]) * weight[:, r]).sum() for r in runs])


def cut(shape: Shape, rank: Ranks, amount: str, context: Context) -> Shape:
    config, tensors = shape.handle.config, dict(shape.handle.stored)
    groups = _count(config, parse_share("heads", amount))
    decisions = []
    for layer in range(config.layers):
        name = f"model.layers.{layer}.self_attn"
        order = dense(rank[ORDER.format(f"{name}.o_proj")].read())
        kept = without(config.kv_heads, order[: config.kv_heads - groups].tolist())
        q, kv = (_channels(kept, size * config.head_dim) for size in (config.heads // config.kv_heads, 1))
        for part, rows in (("q_proj", q), ("k_proj", kv), ("v_proj", kv)):
            for ending in ("weight", "bias"):
                if (tensor := f"{name}.{part}.{ending}") in tensors:
                    tensors[tensor] = picked(tensors[tensor], rows=rows)
        tensors[f"{name}.o_proj.weight"] = fitted(tensors[f"{name}.o_proj.weight"], rank[HESSIAN.format(f"{name}.o_proj")], q)
        decisions.append({"step": "heads", "layer": name, "kept": kept.tolist()})
    heads = groups * config.heads // config.kv_heads
    changed = {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": config.head_dim}
    return shape.with_model(changed, tensors, *decisions)


def _count(config: Any, share: float) -> int:
    """Groups that stay: readers of these configs want the hidden size to be a multiple of the heads."""
    wanted, each = config.kv_heads * (1 - share), config.heads // config.kv_heads
    possible = [groups for groups in range(1, config.kv_heads + 1) if config.hidden % (groups * each) == 0]
    return min(possible, key=lambda groups: (abs(groups - wanted), groups), default=config.kv_heads)


def _channels(kept: Tensor, size: int) -> Tensor:
    """The places of those runs of `size` channels."""
    return (kept[:, None] * size + torch.arange(size)).flatten()


STEP = Step(rank, cut, refuse, shares=(0.25, 0.5))
