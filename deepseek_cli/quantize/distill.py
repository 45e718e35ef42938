"""The last step of quantizing well: the scales of all blocks learn together to give the original's predictions.

The loss is the KL divergence from the original to the quantized model. The last windows of the text are not learned from; they
say whether the result is better than what came in, which stays where it is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from deepseek_cli.errors import MemoryShort
from deepseek_cli.handle import ModelHandle
from deepseek_cli.memory import free_bytes
from deepseek_cli.ops.torch_parts import fastest_dtype
from deepseek_cli.quantize.checkpoint import Checkpoint
from deepseek_cli.quantize.fold import folded
from deepseek_cli.quantize.method import BATCH, Method
from deepseek_cli.quantize.student import BLOCKS, PART, POSITIONS, Student, graph_bytes, last_hidden
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.tensors import TensorRef

HELD_OUT = 8  # one window in so many
WARM_UP = 5  # steps
SAVE_SECONDS = 120.0
SPENT = "seconds"
WORK = 12  # values a token of one block's graph, in its hidden sizes


def distill(
    handle: ModelHandle, method: Method, codes: Mapping[str, TensorRef], checkpoint: Checkpoint, reporter: Reporter = SILENT
) -> dict[str, TensorRef]:
    """`codes` after `method.steps` steps, or as they are where that is not better on held-out text; norms stay as they are."""
    assert method.calibration and method.rate
    windows, dtype = method.calibration.windows, fastest_dtype()
    original = last_hidden(handle, windows, dtype)
    held = max(len(windows) // HELD_OUT, 1)
    student = Student(folded(handle, codes), {name: ref for name, ref in codes.items() if ref.quantized}, dtype)
    student.keeps_graphs = graph_bytes(handle, BATCH * windows.shape[1]) < free_bytes() / 2
    before = student.score(windows[-held:], original[-held:])

    def step(chosen: Tensor, rate: float) -> None:
        student.step(windows[chosen], original[chosen], rate)

    seed = method.calibration.seed
    learn(student, len(windows) - held, step, method.rate, checkpoint, reporter, method.steps, seed=seed)
    after = student.score(windows[-held:], original[-held:])
    if not after < before:
        reporter.note(
            "Distillation did not help: KL divergence {before:.4g} → {after:.4g}. Left out.", before=before, after=after
        )
        return dict(codes)
    reporter.note("Distillation: KL divergence {before:.4g} → {after:.4g} on held-out text.", before=before, after=after)
    return {**codes, **{name: replace(codes[name], read=partial(student.export, name)) for name in student.learning}}


def learn(
    student: Student,
    count: int,
    step: Callable[[Tensor, float], None],
    rate: float,
    checkpoint: Checkpoint,
    reporter: Reporter,
    steps: int,
    seconds: float = math.inf,
    seed: int = 0,
    size: int = BATCH,
    after: Callable[[float], None] = lambda part: None,
) -> None:
    """At most `steps` steps in at most `seconds`, those of the run that was stopped among them.

    `step(chosen, rate)` is one, on `size` of `count` windows; `after(part)` hears behind each how much of all is done.
    """
    done, state = checkpoint.learned()
    for name, value in _state(student).items() if done else ():
        value.copy_(_read(state[name]))
    spent = float(_read(state[SPENT])) if SPENT in state else 0.0
    began = saved = time.monotonic()
    while (part := max(done / steps, spent / seconds)) < 1:
        step(batch(count, done, seed, size), rate * _schedule(done, part))
        done, now = done + 1, time.monotonic()
        spent, began = spent + now - began, now
        part = max(done / steps, spent / seconds)
        reporter.progress("distill", done, round(done / min(part, 1)))
        if now - saved >= SAVE_SECONDS or part >= 1:
            checkpoint.save_learned(done, {**_state(student), SPENT: torch.tensor(spent)})
            saved = now
        after(part)


def batch(count: int, step: int, seed: int = 0, size: int = BATCH) -> Tensor:
    """The windows of a step, each once in a round over all `count`, in another order every round."""
    places = range(step * size, (step + 1) * size)
    orders = {place // count: _order(count, place // count, seed) for place in places}
    return torch.stack([orders[place // count][place % count] for place in places])


def _order(count: int, turn: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(turn + (seed << 32)))


def _schedule(step: int, part: float) -> float:
    """Part of the rate: up over the first few steps, in which Adam's moments settle, then down to nothing."""
    return min((step + 1) / WARM_UP, 1 - part)


def _state(student: Student) -> dict[str, Tensor]:
    return {f"{name}:{part}": value for name, weight in student.learning.items() for part, value in weight.parts.items()}


def _read(ref: TensorRef) -> Tensor:
    value = ref.read()
    assert isinstance(value, Tensor)
    return value


def needed_bytes(handle: ModelHandle, method: Method) -> int:
    """What it holds at once: codes, scales with Adam's moments, what is not quantized, and one step's activations."""
    assert method.calibration
    windows, config, width = method.calibration.windows, handle.config, fastest_dtype().itemsize
    learning = [item for item in method.calibrated if item.name.startswith(BLOCKS)]
    values = sum(math.prod(item.shape) for item in learning)
    heads = sum(math.prod(item.shape) for item in method.calibrated) - values
    codes = sum(math.prod(item.shape) * item.scheme.bits // 8 for item in learning)
    scales = sum(item.shape[0] * -(-item.shape[1] // item.scheme.group_of(item.shape[1])) for item in learning)
    dense = width * (handle.parameters - values + heads)  # the original's head, too
    block = 3 * width * values // config.layers  # its weights, their gradients, and one copy on the way
    tokens = BATCH * windows.shape[1]
    held = windows.numel() + max(PART * windows.shape[1], tokens) * (config.layers + WORK * BATCH)
    logits = 3 * width * POSITIONS * config.vocabulary
    return codes + 16 * scales + dense + block + width * held * config.hidden + logits


def require_memory(handle: ModelHandle, method: Method) -> None:
    """Raises MemoryShort when distillation would not fit."""
    needed, free = needed_bytes(handle, method), free_bytes()
    if needed > free:
        raise MemoryShort(
            "Distilling {model} needs {needed} MB, and {free} MB are free.",
            hint="Use --level balanced, or leave this step out: --set steps=0.",
            model=handle.name,
            needed=needed // 1_000_000,
            free=free // 1_000_000,
        )
