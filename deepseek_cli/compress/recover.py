"""What is left learns from the original for a time: "20m", or "20m+lora16" by adapters of rank 16.

The weights learn when they are first read: plans that are only weighed cost nothing.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from deepseek_cli.compress.shape import Context, Shape, dense_dtype, picked
from deepseek_cli.compress.steps import Step
from deepseek_cli.compress.teach import Amount, Apprentice, recovered, require_memory
from deepseek_cli.errors import UsageError
from deepseek_cli.refs import TensorRef
from deepseek_cli.tensors import dense

DEFAULT = "10m"
HIDDEN = 0.0  # what the states within weigh beside the predictions
AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)(?:\+lora([1-9]\d*))?(?:\+hidden(\d+(?:\.\d+)?))?")
SECONDS = {"s": 1, "m": 60, "h": 3600}
LEARNED = re.compile(r"model\.layers\.\d+\..*\.weight")


def parse_amount(text: str) -> Amount:
    """Read "20m", "20m+lora16" or "20m+lora16+hidden0.5". Raises UsageError."""
    found = AMOUNT.fullmatch(text)
    if not found or not float(found[1]):
        raise UsageError(
            "--steps recover={text} is no time, with +loraRANK or +hiddenWEIGHT behind it.",
            hint="For example: --steps depth=20%,recover=20m, or recover=20m+lora16 to learn with less memory.",
            text=text,
        )
    seconds = float(found[1]) * SECONDS[found[2]]
    return Amount(seconds, int(found[3]) if found[3] else None, float(found[4] or HIDDEN))


def refuse(shape: Shape, amount: str) -> None:
    parse_amount(amount or DEFAULT)


def cut(shape: Shape, rank: None, amount: str, context: Context) -> Shape:
    names = [name for name in shape.handle.weights if LEARNED.fullmatch(name)]
    asked = parse_amount(amount or DEFAULT)
    assert context.original
    require_memory(shape, names, asked, context.original)

    @cache
    def student() -> Apprentice | None:
        with torch.inference_mode(False):  # whoever reads a tensor may be in it
            return recovered(shape, names, asked, context)

    def learning(ref: TensorRef, name: str) -> TensorRef:
        def read() -> Tensor:
            best = student()
            return dense(picked(ref).read()) if best is None else best.learned(name).to(dense_dtype(ref))

        return replace(picked(ref), read=read)

    stored = shape.handle.stored
    tensors = {name: learning(ref, name) if name in names else ref for name, ref in stored.items()}
    return shape.with_model({}, tensors, {"step": "recover", "learned": len(names), "time": amount or DEFAULT})


STEP = Step(lambda shape, context: None, cut, refuse)
