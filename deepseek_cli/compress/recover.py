"""What is left learns to predict as the whole model did: all weights of all blocks, by the KL divergence of the predictions.

Calibration text is the teacher's only text; a part of it is not learned from, and says whether anything was gained.
The weights learn when they are first read: plans that are only weighed cost nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from deepseek_cli.compress.shape import Context, Shape, dense_dtype, picked
from deepseek_cli.compress.steps import Step
from deepseek_cli.errors import UsageError
from deepseek_cli.ops.torch_parts import fastest_dtype
from deepseek_cli.quantize.calibration import read_calibration
from deepseek_cli.quantize.checkpoint import Checkpoint
from deepseek_cli.quantize.distill import HELD_OUT, learn
from deepseek_cli.quantize.fake import DECAYS
from deepseek_cli.quantize.student import Student, last_hidden
from deepseek_cli.refs import TensorRef
from deepseek_cli.tensors import dense

RATE = 0.01  # of a weight's root mean square, a step
TOKENS = 65_536  # of text
MOST_STEPS = 4000
DEFAULT = "10m"
TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)")
SECONDS = {"s": 1, "m": 60, "h": 3600}
LEARNED = re.compile(r"model\.layers\.\d+\..*\.weight")


def parse_time(text: str) -> float:
    """The seconds of "20m". Raises UsageError."""
    found = TIME.fullmatch(text)
    if not found or not float(found[1]):
        raise UsageError("--steps recover={text}: that is no time.", hint="For example: --steps depth=20%,recover=20m", text=text)
    return float(found[1]) * SECONDS[found[2]]


def refuse(shape: Shape, amount: str) -> None:
    parse_time(amount or DEFAULT)


class Learning:
    """A weight that learns as it is, by Adam (arXiv 1412.6980), in steps that are part of its size."""

    def __init__(self, weight: Tensor) -> None:
        self.value = weight.float().clone()
        self.mean, self.square = torch.zeros_like(self.value), torch.zeros_like(self.value)
        self.steps = torch.zeros((), dtype=torch.int64)
        self.size = float(self.value.square().mean().sqrt())

    @property
    def parts(self) -> dict[str, Tensor]:
        return {"value": self.value, "mean": self.mean, "square": self.square, "steps": self.steps}

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.value.to(dtype, copy=True)

    def learn(self, gradient: Tensor, rate: float) -> None:
        self.steps += 1
        slope, (first, second), steps = gradient.float(), DECAYS, int(self.steps)
        self.mean.lerp_(slope, 1 - first)
        self.square.mul_(second).addcmul_(slope, slope, value=1 - second)
        size = self.square.div(1 - second**steps).sqrt_().add_(1e-20)
        self.value.addcdiv_(self.mean, size, value=-rate * self.size / (1 - first**steps))


class Whole(Student):
    """A student whose weights learn themselves."""

    def _begin(self, name: str, ref: TensorRef) -> Learning:
        return Learning(dense(ref.read()))  # rows as operators want them

    def learned(self, name: str) -> Tensor:
        """As it goes on disk."""
        value: Tensor = self.learning[name].value
        return value[self.order[name].argsort()] if name in self.order else value


def cut(shape: Shape, rank: None, amount: str, context: Context) -> Shape:
    names = [name for name in shape.handle.weights if LEARNED.fullmatch(name)]

    @cache
    def student() -> Whole | None:
        with torch.inference_mode(False):  # whoever reads a tensor may be in it
            return recovered(shape, names, parse_time(amount or DEFAULT), context)

    def learning(ref: TensorRef, name: str) -> TensorRef:
        def read() -> Tensor:
            best = student()
            return dense(picked(ref).read()) if best is None else best.learned(name).to(dense_dtype(ref))

        return replace(picked(ref), read=read)

    stored = shape.handle.stored
    tensors = {name: learning(ref, name) if name in names else ref for name, ref in stored.items()}
    return shape.with_model({}, tensors, {"step": "recover", "learned": len(names), "time": amount or DEFAULT})


def recovered(shape: Shape, names: list[str], seconds: float, context: Context) -> Whole | None:
    """None where it predicts held-out text no better than before."""
    assert context.original
    original, handle, dtype = context.original, shape.handle, fastest_dtype()
    windows = read_calibration(shape.tokenizer, context.source, TOKENS, handle.config.context).windows
    wanted = last_hidden(original, windows if shape.kept is None else shape.kept[windows], dtype)
    held = max(len(windows) // HELD_OUT, 1)
    student = Whole(handle, {name: handle.weights[name] for name in names}, dtype)
    before = student.score(windows[-held:], wanted[-held:])
    decided = [{field: value for field, value in d.items() if not isinstance(value, float)} for d in shape.decisions]
    asked = {"original": original.digest, "decisions": decided, "calibration": context.source, "seconds": seconds}
    kind = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    checkpoint = Checkpoint((context.work or context.folder) / f"recover-{kind}", asked)
    learn(student, windows[:-held], wanted[:-held], RATE, checkpoint, context.reporter, MOST_STEPS, seconds)
    after = student.score(windows[-held:], wanted[-held:])
    facts = {"before": before, "after": after}
    if not after < before:
        context.reporter.note("Recovery did not help: KL divergence {before:.4g} → {after:.4g}. Left out.", **facts)
        return None
    context.reporter.note("Recovery: KL divergence {before:.4g} → {after:.4g} on held-out text.", **facts)
    return student


STEP = Step(lambda shape, context: None, cut, refuse)
