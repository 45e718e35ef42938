"""Fewer layers: one after another goes, each the one without which predictions change least.

Every layer that is left is a candidate each time, but only the few that change their input least are tried (block influence,
ShortGPT, arXiv 2403.03853); what is tried is judged by the KL divergence from the whole model.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.compress.steps import Step, parse_share
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.quantize.student import divergence
from deepseek_cli.refs import TensorRef
from deepseek_cli.tensors import HeldWeights

TRIED = 6  # layers of the least influence, each time
MOST = 0.5  # of all layers
POSITIONS = 128  # whose logits are held at once
TOKENS = 1024
LAYER = re.compile(r"model\.layers\.(\d+)\.")


def refuse(shape: Shape, amount: str) -> None:
    if amount and parse_share("depth", amount) > MOST:
        raise UsageError(
            "--steps depth={amount}: at most {most} of the layers can go.",
            hint="Choose less; other steps can make the rest smaller.",
            amount=amount,
            most=f"{100 * MOST:.0f}%",
        )
    if shape.handle.config.layers < 2:
        raise UsageError("{model} has only one layer.", hint="Leave depth out of --steps.", model=shape.handle.name)


class Ranking:
    """The layers in the order in which they go, each with the KL divergence when it is gone; as far as it is asked for."""

    @torch.inference_mode()
    def __init__(self, shape: Shape, context: Context) -> None:
        handle, windows = shape.handle, shape.windows[: max(TOKENS // shape.windows.shape[1], 1)]
        self.run, self.reporter = Runs(handle), context.reporter
        self.left, self.gone = list(range(handle.config.layers)), list[tuple[int, float]]()
        self.inputs = self.run.through(self.run.embed(windows), self.left)
        self.original = self.inputs[-1]

    @torch.inference_mode()
    def first(self, count: int) -> list[tuple[int, float]]:
        while len(self.gone) < count:
            self._drop()
            self.reporter.progress("rank layers", len(self.gone), count)
        return self.gone[:count]

    def _drop(self) -> None:
        run, left, inputs = self.run, self.left, self.inputs
        influence = [1 - float(torch.cosine_similarity(a, b, dim=-1).mean()) for a, b in pairwise(inputs)]
        places = sorted(range(len(left)), key=influence.__getitem__)[:TRIED]
        outputs = [run.through(inputs[i], left[i + 1 :])[-1] for i in places]
        kl, place = min(zip(run.divergences(outputs, self.original), places, strict=True))
        self.gone.append((left.pop(place), kl))
        self.inputs = [*inputs[:place], *run.through(inputs[place], left[place:])]


class Runs:
    """The model with some of its layers; one layer's weights are in memory at a time."""

    def __init__(self, handle: ModelHandle) -> None:
        self.handle, self.weights = handle, HeldWeights(handle.weights)
        self.ops = TorchOps(self.weights)

    def embed(self, windows: Tensor) -> Tensor:
        x: Tensor = self.handle.architecture.embed(self.ops, self.handle.config, windows)
        return x

    def through(self, x: Tensor, layers: list[int]) -> list[Tensor]:
        """What goes into each of these layers, and what comes out of the last."""
        xs = [x]
        for layer in layers:
            self.weights.forget()
            xs.append(self.handle.architecture.block(self.ops, self.handle.config, xs[-1], layer))
        return xs

    def divergences(self, xs: list[Tensor], original: Tensor) -> list[float]:
        """Mean KL divergence of the predictions from each of these outputs of the last layer."""
        self.weights.forget()
        sums = [0.0] * len(xs)
        for rows, *parts in zip(*(x.flatten(0, 1).split(POSITIONS) for x in (original, *xs)), strict=True):
            wanted = self._logits(rows)
            sums = [total + divergence(wanted, self._logits(part)) for total, part in zip(sums, parts, strict=True)]
        return [total / original.shape[:2].numel() for total in sums]

    def _logits(self, x: Tensor) -> Tensor:
        arch, config = self.handle.architecture, self.handle.config
        logits: Tensor = arch.head(self.ops, config, arch.norm(self.ops, config, x[None]))
        return logits


def cut(shape: Shape, rank: Ranking, amount: str, context: Context) -> Shape:
    config, raw = shape.handle.config, shape.handle.raw_config
    wanted = max(round(config.layers * parse_share("depth", amount)), 1)
    gone = rank.first(min(wanted, max(round(MOST * config.layers), 1)))
    dropped = {layer for layer, _ in gone}
    drafts = bool(shape.handle.draft_weights)
    left = [i for i in range(config.layers + drafts) if i not in dropped]
    place = {old: new for new, old in enumerate(left)}
    tensors = dict[str, TensorRef]()
    for name, ref in shape.handle.stored.items():
        layer = LAYER.match(name)
        if not layer:
            tensors[name] = ref
        elif int(layer[1]) in place:
            tensors[f"model.layers.{place[int(layer[1])]}.{name[layer.end() :]}"] = ref
    decisions = [{"step": "depth", "layer": layer, "dropped": True, "kl": kl} for layer, kl in gone]
    return shape.with_model(_config(raw, config, left), tensors, *decisions)


def _config(raw: Any, config: Any, left: list[int]) -> dict[str, Any]:
    """The fields of config.json that count or list layers."""
    own = [i for i in left if i < config.layers]
    changed: dict[str, Any] = {"num_hidden_layers": len(own)}
    for field in ("layer_types", "mlp_layer_types"):
        if isinstance(raw.get(field), list):
            changed[field] = [raw[field][i] for i in own]
    sparse = getattr(config, "sparse", None)
    if sparse and "mlp_layer_types" not in changed:
        kinds = ["sparse" if i in sparse else "dense" for i in own]
        if kinds == sorted(kinds):  # dense ones first, which every reader of these models knows
            changed |= {"first_k_dense_replace": kinds.count("dense"), "moe_layer_freq": 1}
        else:
            changed["mlp_layer_types"] = kinds
    return changed


STEP = Step(Ranking, cut, refuse, shares=(0.1, 0.2, 0.3, 0.4))
