"""Without the layer that drafts: nothing that the model predicts changes, only speculation goes."""

from __future__ import annotations

from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.compress.steps import Step
from deepseek_cli.errors import UsageError


def refuse(shape: Shape, amount: str) -> None:
    if not shape.handle.draft_weights:
        raise UsageError(
            "{model} has no layer that drafts tokens ahead.", hint="Leave mtp out of --steps.", model=shape.handle.name
        )


def cut(shape: Shape, rank: None, amount: str, context: Context) -> Shape:
    decision = {"step": "mtp", "layer": shape.handle.config.layers, "tensors": len(shape.handle.draft_weights)}
    return shape.with_model({"num_nextn_predict_layers": 0}, {n: shape.handle.tensors[n] for n in shape.handle.weights}, decision)


STEP = Step(lambda shape, context: None, cut, refuse)
