"""Weights with zeros in them: two of every four inputs, or a share; the inputs that stay make good for those that went.

SparseGPT (arXiv 2301.00774): column after column, what costs least by w² / [H⁻¹]ⱼⱼ goes, and its error moves on to the columns
behind. Each block is computed anew once it is pruned, so that the next one sees what it will meet. Weights are pruned when they
are first read: plans that are only weighed cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from deepseek_cli.compress.inputs import each_block
from deepseek_cli.compress.shape import Context, Shape, dense_dtype, picked
from deepseek_cli.compress.steps import Step, format_share, parse_share
from deepseek_cli.errors import UsageError
from deepseek_cli.quantize.gptq import inverse_factor
from deepseek_cli.refs import TensorRef
from deepseek_cli.tensors import dense

BLOCK = 128  # columns among which a share is chosen
DEFAULT = "50%"
STRUCTURE = re.compile(r"(\d):(\d)")
PRUNED = re.compile(r"model\.layers\.(\d+)\.(self_attn|mlp)\..*(?<!kv_b)_proj\.weight")


@dataclass(frozen=True, slots=True)
class Pattern:
    """`gone` of every `of` inputs of a row; without `of`, the share `gone` of each BLOCK columns together."""

    gone: float
    of: int = 0

    def choose(self, cost: Tensor) -> Tensor:
        """Which of `cost` [in, out] go, the cheapest; with `of`, that many inputs at a time."""
        if self.of:
            places = cost.argsort(dim=0)[: int(self.gone)]
            return torch.zeros_like(cost, dtype=torch.bool).scatter_(0, places, True)
        count = round(self.gone * cost.numel())
        chosen = torch.zeros(cost.numel(), dtype=torch.bool)
        chosen[cost.flatten().argsort()[:count]] = True
        return chosen.view_as(cost)


def parse_pattern(text: str) -> Pattern:
    """Of "2:4" or "50%". Raises UsageError."""
    if (found := STRUCTURE.fullmatch(text)) is None:
        return Pattern(parse_share("sparsity", text))
    if text != "2:4":
        raise UsageError(
            "--steps sparsity={text}: of such runs, hardware knows 2:4 alone.",
            hint="Use sparsity=2:4, or a share such as 50%.",
            text=text,
        )
    return Pattern(int(found[1]), int(found[2]))


def names_in(shape: Shape) -> dict[str, int]:
    """The weights that are pruned, and their layers: none of the layer that drafts, whose inputs calibration does not meet."""
    found = {name: int(match[1]) for name in shape.handle.stored if (match := PRUNED.fullmatch(name))}
    return {name: layer for name, layer in found.items() if layer < shape.handle.config.layers}


def refuse(shape: Shape, amount: str) -> None:
    pattern = parse_pattern(amount or DEFAULT)
    odd = next((name for name in names_in(shape) if shape.handle.stored[name].shape[1] % (pattern.of or 1)), None)
    if odd:
        raise UsageError(
            "{tensor} has {inputs} inputs, which are no runs of four.",
            hint="Use a share, such as sparsity=50%.",
            tensor=odd,
            inputs=shape.handle.stored[odd].shape[1],
        )


@torch.no_grad()
def pruned(weight: Tensor, hessian: Tensor, pattern: Pattern) -> Tensor:
    """`weight` [out, in] with zeros, its outputs on inputs of this Hessian [in, in] changed as little as that allows.

    Raises ValueError for a Hessian that has no factor at any damping.
    """
    upper = inverse_factor(hessian, torch.arange(weight.shape[1]))
    rest = weight.float().T.contiguous()  # [in, out]: a column of the weight is one stretch of memory
    for start in range(0, len(rest), BLOCK):
        block, factor = rest[start : start + BLOCK], upper[start : start + BLOCK, start : start + BLOCK]
        counts = factor.diagonal().square()[:, None]
        gone = torch.zeros_like(block, dtype=torch.bool) if pattern.of else pattern.choose(block.square() / counts)
        errors = torch.empty_like(block)
        for i, column in enumerate(block):
            if pattern.of and i % pattern.of == 0:
                run = slice(i, i + pattern.of)
                gone[run] = pattern.choose(block[run].square() / counts[run])
            torch.mul(column, gone[i], out=errors[i]).div_(factor[i, i])
            column.masked_fill_(gone[i], 0)
            block[i + 1 :].addr_(factor[i, i + 1 :], errors[i], alpha=-1)
        rest[start + BLOCK :].addmm_(upper[start : start + BLOCK, start + BLOCK :].T, errors, alpha=-1)
    return rest.T


def cut(shape: Shape, rank: None, amount: str, context: Context) -> Shape:
    pattern, stored = parse_pattern(amount or DEFAULT), shape.handle.stored
    names = names_in(shape)

    @cache
    def weights() -> Mapping[str, TensorRef]:
        with torch.inference_mode(False):  # whoever reads a tensor may be in it
            return pruned_blocks(shape, pattern, context)

    def thinned(name: str, ref: TensorRef) -> TensorRef:
        whole = picked(ref)
        return replace(whole, read=lambda: dense(weights()[name].read()))

    tensors = {name: thinned(name, ref) if name in names else ref for name, ref in stored.items()}
    context.reporter.note("Zeros make no file smaller: GPUs with sparse tensor cores multiply 2:4 faster, in TensorRT.")
    return shape.with_model({}, tensors, {"step": "sparsity", "pattern": amount or DEFAULT, "weights": len(names)})


def pruned_blocks(shape: Shape, pattern: Pattern, context: Context) -> dict[str, TensorRef]:
    """All that are pruned, in files of `context`, those of one block at a time in memory.

    Of an expert that no token meets the smallest weights go.
    """
    handle, names, found = shape.handle, names_in(shape), dict[str, TensorRef]()
    order = {name: torch.tensor(rows) for name, rows in handle.architecture.row_order(handle.config).items()}

    def on_block(layer: int, hessians: Mapping[str, Tensor], weight: Callable[[str], Tensor | None]) -> Mapping[str, Tensor]:
        made, kept = dict[str, Tensor](), dict[str, Tensor]()
        for name in (name for name, place in names.items() if place == layer):
            whole = weight(name)
            assert whole is not None
            hessian = hessians.get(name.removesuffix(".weight"), torch.eye(whole.shape[1]))
            made[name] = pruned(whole, hessian, pattern).to(dense_dtype(handle.stored[name]))
            kept[name] = made[name][order[name].argsort()] if name in order else made[name]
        found.update(context.keep(f"layer-{layer}-{format_share(pattern.gone)}-{pattern.of}", kept))
        context.reporter.progress("prune", layer + 1, handle.config.layers)
        return {name: value.to(torch.float32) for name, value in made.items()}

    each_block(shape, lambda name: f"{name}.weight" in names, on_block)
    return found


STEP = Step(lambda shape, context: None, cut, refuse)
