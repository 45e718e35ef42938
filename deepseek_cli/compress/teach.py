"""What is left learns to predict as the whole model did: by the KL divergence of the predictions, and by the states within.

Calibration text is the teacher's only text; a part of it is not learned from, and says whether anything was gained.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from deepseek_cli.compress.learning import begin, state_bytes
from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.errors import MemoryShort
from deepseek_cli.handle import ModelHandle
from deepseek_cli.memory import free_bytes
from deepseek_cli.ops import AttentionSpec
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.ops.torch_parts import fastest_dtype
from deepseek_cli.quantize.calibration import WINDOW, read_calibration
from deepseek_cli.quantize.checkpoint import Checkpoint
from deepseek_cli.quantize.distill import HELD_OUT, learn
from deepseek_cli.quantize.student import POSITIONS, Student, graph_bytes
from deepseek_cli.refs import TensorRef
from deepseek_cli.tensors import HeldWeights, dense

RATE = 0.048  # of a weight's root mean square, a step, over the root of the hidden size (arXiv 2203.03466, table 3)
ADAPTER_RATE = 2 * RATE
TOKENS = 4_194_304  # of text at most
HELD_OUT_MOST = 32  # windows
REMEMBERED = 262_144  # tokens; what the teacher says of more text is computed anew
BATCH = 2  # windows a step
MOST_STEPS = 16_000
PLACES = 4  # blocks whose input is compared
MARKS = (0.1, 0.2, 0.4)  # parts of the time behind which it is told how far it came


@dataclass(frozen=True, slots=True)
class Amount:
    """How long, by adapters of which `rank` (None: all of every weight), and what the states within weigh."""

    seconds: float
    rank: int | None
    hidden: float


class PlainOps(TorchOps):
    """Attention as plain products: on windows of this length their gradients take half the time of the fused kernel's."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, spec: AttentionSpec) -> Tensor:
        k, v = (t.repeat_interleave(spec.heads // spec.kv_heads, dim=1) for t in (k, v))
        future = torch.full((q.shape[2], k.shape[2]), float("-inf"), dtype=q.dtype).triu(1)
        y: Tensor = ((q * spec.scale) @ k.mT + future).softmax(-1) @ v
        return y


class Apprentice(Student):
    """A student whose dense weights learn themselves."""

    operators = PlainOps

    def __init__(self, handle: ModelHandle, learning: Mapping[str, TensorRef], dtype: torch.dtype, rank: int | None) -> None:
        self.rank = rank
        super().__init__(handle, learning, dtype)

    def _begin(self, name: str, ref: TensorRef) -> object:
        return begin(name, dense(ref.read()), self.rank)  # rows as operators want them

    def learned(self, name: str) -> Tensor:
        """As it goes on disk."""
        value: Tensor = self.learning[name].value
        return value[self.order[name].argsort()] if name in self.order else value


class Teacher:
    """What the original computes for windows of text: each alone, so that bits do not hang on the order.

    `places` names blocks of the student by the original's whose input theirs should be.
    """

    def __init__(self, handle: ModelHandle, windows: Tensor, places: Mapping[int, int], dtype: torch.dtype) -> None:
        self.arch, self.config, self.windows, self.places = handle.architecture, handle.config, windows, places
        self.weights = HeldWeights(handle.weights, dtype)
        self.known: dict[int, list[Tensor]] = {}

    def __call__(self, chosen: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """What its head sees [windows, length, hidden], and what goes into the student's blocks."""
        last, *within = (torch.stack(parts) for parts in zip(*map(self._of, chosen.tolist()), strict=True))
        return last, dict(zip(self.places, within, strict=True))

    @torch.no_grad()
    def _of(self, window: int) -> list[Tensor]:
        if window in self.known:
            return self.known[window]
        ops, within = TorchOps(self.weights), dict[int, Tensor]()
        x = self.arch.embed(ops, self.config, self.windows[window, None])
        for block in range(self.config.layers):
            if block in self.places.values():
                within[block] = x[0]
            x = self.arch.block(ops, self.config, x, block)
        said = [self.arch.norm(ops, self.config, x)[0], *(within[place] for place in self.places.values())]
        if (len(self.known) + 1) * self.windows.shape[1] <= REMEMBERED:
            self.known[window] = said
            if len(self.known) == len(self.windows):
                self.weights.forget()
        return said


def recovered(shape: Shape, names: list[str], amount: Amount, context: Context) -> Apprentice | None:
    """None where it predicts held-out text no better than before. Raises MemoryShort."""
    assert context.original
    original, handle, dtype = context.original, shape.handle, fastest_dtype()
    calibration = read_calibration(shape.tokenizer, context.source, TOKENS, handle.config.context)
    windows, checkpoint = calibration.windows, _checkpoint(shape, amount, context, calibration.sha256)
    whole = windows if shape.kept is None else shape.kept[windows]
    teacher = Teacher(original, whole, matched(shape, original) if amount.hidden else {}, dtype)
    student = Apprentice(handle, {name: handle.weights[name] for name in names}, dtype, amount.rank)
    student.keeps_graphs = graph_bytes(handle, BATCH * windows.shape[1]) < free_bytes() / 2
    count = len(windows) - min(max(len(windows) // HELD_OUT, 1), HELD_OUT_MOST)
    held_out = torch.arange(count, len(windows))

    def score() -> float:
        return student.score(windows[held_out], teacher(held_out)[0])

    def step(chosen: Tensor, rate: float) -> None:
        last, within = teacher(chosen)
        student.step(windows[chosen], last, rate, within, amount.hidden)

    before = score()
    rate = (RATE if amount.rank is None else ADAPTER_RATE) / math.sqrt(handle.config.hidden)
    marks = _told(score, before, context)
    learn(student, count, step, rate, checkpoint, context.reporter, MOST_STEPS, amount.seconds, context.seed, BATCH, marks)
    facts = {"before": before, "after": (after := score())}
    if not after < before:
        context.reporter.note("Recovery did not help: KL divergence {before:.4g} → {after:.4g}. Left out.", **facts)
        return None
    context.reporter.note("Recovery: KL divergence {before:.4g} → {after:.4g} on held-out text.", **facts)
    return student


def matched(shape: Shape, original: ModelHandle) -> dict[int, int]:
    """Some of its blocks, evenly spaced, by the original's that they were."""
    gone = {decision["layer"] for decision in shape.decisions if decision["step"] == "depth"}
    left = [layer for layer in range(original.config.layers) if layer not in gone]
    blocks = {len(left) * (i + 1) // (PLACES + 1) for i in range(PLACES)} - {0}
    return {block: left[block] for block in sorted(blocks)}


def _checkpoint(shape: Shape, amount: Amount, context: Context, text: str) -> Checkpoint:
    assert context.original
    decided = [{field: value for field, value in d.items() if not isinstance(value, float)} for d in shape.decisions]
    given = {"original": context.original.digest, "decisions": decided, "text": text}
    asked = {**given, **asdict(amount), "seed": context.seed}
    kind = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    return Checkpoint((context.work or context.folder) / f"recover-{kind}", asked)


def _told(score: Callable[[], float], before: float, context: Context) -> Callable[[float], None]:
    """Told how much of the time is over, it tells now and then how far learning came."""
    left = list(MARKS)

    def tell(part: float) -> None:
        if left and left[0] <= part < 1:
            del left[: sum(mark <= part for mark in left)]
            message = "Recovery, {percent:.0f} % of the time: KL divergence {before:.4g} → {now:.4g} on held-out text."
            context.reporter.note(message, percent=100 * part, before=before, now=score())

    return tell


def require_memory(shape: Shape, names: list[str], amount: Amount, original: ModelHandle) -> None:
    """Raises MemoryShort when learning would not fit."""
    needed, free = needed_bytes(shape.handle, names, amount, original), free_bytes()
    if needed > free:
        raise MemoryShort(
            "--steps recover needs {needed} MB, and {free} MB are free.",
            hint="Learn by adapters, as in recover=20m+lora16, or leave it out.",
            needed=needed // 1_000_000,
            free=free // 1_000_000,
        )


def needed_bytes(handle: ModelHandle, names: list[str], amount: Amount, original: ModelHandle) -> int:
    """Both models, what the weights learn with, one block's graph, and what the teacher remembers."""
    width = fastest_dtype().itemsize
    state = sum(state_bytes(handle.weights[name].shape, amount.rank) for name in names)
    said = REMEMBERED * handle.config.hidden * (1 + (PLACES if amount.hidden else 0))
    block = graph_bytes(handle, BATCH * min(WINDOW, handle.config.context)) // handle.config.layers
    logits = 3 * POSITIONS * handle.config.vocabulary
    return state + width * (original.parameters + handle.parameters + said + logits) + block
