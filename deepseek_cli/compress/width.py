"""Narrower MLPs. Channels go that the others can best make good for, and the others do: the projection down is fitted anew.

Every layer loses as many, since a config knows one width. Experts keep theirs: they go as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from deepseek_cli.compress.inputs import each_block, made_good, removal_error
from deepseek_cli.compress.shape import Context, Shape, dense_dtype, picked, without
from deepseek_cli.compress.steps import Step, parse_share
from deepseek_cli.errors import UsageError
from deepseek_cli.quantize.plan import TILE
from deepseek_cli.refs import TensorRef
from deepseek_cli.tensors import dense

HESSIAN, ORDER = "{}.hessian", "{}.order"

Ranks = Mapping[str, TensorRef]  # of each MLP: the order in which its channels go, and the Hessian to make good with


def refuse(shape: Shape, amount: str) -> None:
    if not mlps(shape):
        raise UsageError(
            "{model} has no MLP beside its experts.",
            hint="Leave width out of --steps.",
            model=shape.handle.name,
        )
    if amount:
        parse_share("width", amount)


def mlps(shape: Shape) -> list[str]:
    """Those of the config's own width, by their prefix."""
    layers = range(shape.handle.config.layers)
    names = (f"model.layers.{i}.mlp" for i in layers)
    return [name for name in names if f"{name}.down_proj.weight" in shape.handle.tensors]


def rank(shape: Shape, context: Context) -> Ranks:
    names, ranks = {f"{name}.down_proj" for name in mlps(shape)}, dict[str, TensorRef]()

    def on_block(layer: int, hessians: Mapping[str, Tensor], weight: Callable[[str], Tensor | None]) -> None:
        for name, hessian in hessians.items():
            projection = weight(f"{name}.weight")
            assert projection is not None
            order = removal_error(projection, hessian).argsort(stable=True)
            ranks.update(context.keep(f"{name}.width", {HESSIAN.format(name): hessian, ORDER.format(name): order}))
        context.reporter.progress("rank channels", layer + 1, shape.handle.config.layers)

    each_block(shape, names.__contains__, on_block)
    return ranks


def cut(shape: Shape, rank: Ranks, amount: str, context: Context) -> Shape:
    config, tensors = shape.handle.config, dict(shape.handle.stored)
    width = max(round(config.intermediate * (1 - parse_share("width", amount)) / TILE), 1) * TILE
    width = min(width, config.intermediate)
    decisions = []
    for mlp in mlps(shape):
        order, hessian = rank[ORDER.format(f"{mlp}.down_proj")], rank[HESSIAN.format(f"{mlp}.down_proj")]
        kept = without(config.intermediate, dense(order.read())[: config.intermediate - width].tolist())
        for part in ("gate_proj.weight", "up_proj.weight", "gate_proj.bias", "up_proj.bias"):
            if (name := f"{mlp}.{part}") in tensors:
                tensors[name] = picked(tensors[name], rows=kept)
        name = f"{mlp}.down_proj.weight"
        tensors[name] = fitted(tensors[name], hessian, kept)
        decisions.append({"step": "width", "layer": mlp, "kept": width, "dropped": config.intermediate - width})
    return shape.with_model({"intermediate_size": width}, tensors, *decisions)


def fitted(ref: TensorRef, hessian: TensorRef, kept: Tensor) -> TensorRef:
    """A weight without the inputs that went, the others making good for them; computed when it is read."""
    smaller, whole = picked(ref, columns=kept), picked(ref)

    def read() -> Tensor:
        return made_good(dense(whole.read()).float(), dense(hessian.read()), kept).to(dense_dtype(ref))

    return TensorRef(ref.name, smaller.shape, smaller.stored, smaller.size_bytes, read, ref.release)


STEP = Step(rank, cut, refuse, shares=(0.125, 0.25, 0.375, 0.5))
