"""Choose how a cpu bundle runs so that its peak stays within a cap: at the least cost, with what measuring showed to save.

Measured on SmolLM2-135M, ONNX Runtime 1.31: pages of the file that loading leaves behind are scales (quantized) or a tied
head (dense); without packing a dense bundle keeps one copy of its head instead of two, while a quantized one takes more memory
and a hundred times as long; smaller chunks of a prompt save a few MiB; without its arena ONNX Runtime's peak is higher.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deepseek_cli.errors import DeepseekError, MemoryShort
from deepseek_cli.profile import runtimes
from deepseek_cli.profile.estimate import kv_bytes
from deepseek_cli.profile.runtimes import FLOAT32, MIB, RUNTIMES
from deepseek_cli.profile.sketch import Sketch, sketch_of, total
from deepseek_cli.profile.weights import Stored
from deepseek_cli.runtime.context import DEFAULT_CONTEXT
from deepseek_cli.runtime.memory_plan import MemoryPlan
from deepseek_cli.schemes import PATTERN, parse_scheme
from deepseek_cli.spec import format_size

RUNTIME = "ONNX Runtime"
COMMAND_BYTES = 16 * MIB  # of the command line and a tokenizer
CHUNKS = (64, 32, 16)
LEAST_CONTEXT = 256  # tokens; less is no use
BOOT = """
import json, sys
request = json.load(sys.stdin)
sys.path[:] = request["path"]
from deepseek_cli.profile.optimize import main
main(request)
"""


CHOICES = {
    "release": "pages of the file that loading has read are let go",
    "unpacked": "weights stay as they lie in the file",
    "chunk": "prompts are computed in shorter chunks",
    "kv": "the cache of latents is kept in fp16",
    "context": "the context is shorter",
}


@dataclass(frozen=True, slots=True)
class Optimized:
    """`choices` are keys of CHOICES with the bytes that each takes off the predicted peak, in the order they were made."""

    plan: MemoryPlan
    kv: str
    predicted_bytes: int
    plain_bytes: int  # the predicted peak without a plan
    choices: tuple[tuple[str, int], ...]


def optimize(
    sketch: Sketch, most: int, context: int | None = None, threads: int | None = None, may_narrow: bool = False
) -> Optimized:
    """The first plan, from the fastest on, that is predicted to stay within `most` bytes. With `may_narrow` the cache of
    latents may become fp16. A context that was asked for is kept; the default one may shrink.

    Raises MemoryShort naming the least that would do.
    """
    wanted = context or min(sketch.config.context, DEFAULT_CONTEXT)
    steps = list(ladder(sketch, MemoryPlan(context=wanted), may_narrow))
    if context is None and predict(sketch, *steps[-1][1:], threads) > most:
        steps.append(("context", fitted(sketch, *steps[-1][1:], most, threads), steps[-1][2]))
    plain = before = predict(sketch, *steps[0][1:], threads)
    choices: dict[str, int] = {}
    for name, plan, kv in steps:
        now = predict(sketch, plan, kv, threads)
        if name:
            choices[name] = choices.get(name, 0) + before - now
        if now <= most:
            return Optimized(plan, kv, now, plain, tuple((name, saved) for name, saved in choices.items() if saved > 0))
        before = now
    _, plan, kv = steps[-1]
    raise MemoryShort(
        "{model} needs {least} for {tokens} tokens, and --memory allows {most}.",
        hint="Allow that much, use a smaller --context, or a smaller model.",
        model=sketch.name,
        least=format_size(predict(sketch, plan, kv, threads)),
        tokens=plan.context,
        most=format_size(most),
    )


def ladder(sketch: Sketch, plan: MemoryPlan, may_narrow: bool) -> Iterator[tuple[str, MemoryPlan, str]]:
    """Plans that need less and less; each with the name of what it adds to the one before. A step that saves nothing at the
    peak stays, as it may do so together with the next."""
    kv = sketch.kv
    yield "", plan, kv
    if any(PATTERN.fullmatch(s.form) for s in sketch.weights):
        plan = replace(plan, release=True)
        yield "release", plan, kv
    else:
        plan = replace(plan, prepack=False)
        yield "unpacked", plan, kv
    for chunk in CHUNKS:
        plan = replace(plan, chunk=chunk)
        yield "chunk", plan, kv
    if may_narrow and kv == "fp32" and getattr(sketch.config, "latent", None):
        yield "kv", plan, "fp16"


def fitted(sketch: Sketch, plan: MemoryPlan, kv: str, most: int, threads: int | None = None) -> MemoryPlan:
    """The longest context that fits, but not less than LEAST_CONTEXT."""
    low, high = min(LEAST_CONTEXT, plan.context or 0), plan.context or 0
    while low < high:
        middle = (low + high + 1) // 2
        if predict(sketch, replace(plan, context=middle), kv, threads) <= most:
            low = middle
        else:
            high = middle - 1
    return replace(plan, context=low)


def predict(sketch: Sketch, plan: MemoryPlan, kv: str, threads: int | None = None) -> int:
    """The peak, bytes: while loading on so many threads, all of them where it is None, or with the whole context in the cache."""
    tokens, weights = plan.context or DEFAULT_CONTEXT, sketch.weights
    base = RUNTIMES[RUNTIME].libraries_bytes + COMMAND_BYTES
    held = total(weights) if not plan.prepack else runtimes.resident_weights(RUNTIME, weights)
    mapped = runtimes.left_mapped(weights, sketch.config.tied) if plan.prepack else 0
    load = base + runtimes.load_peak(RUNTIME, weights, held, sketch.config.tied, threads)
    running = kv_bytes(sketch, kv) * tokens + runtimes.activations(RUNTIME, sketch, tokens, 1, plan.chunk)
    steady = base + held + (0 if plan.release else mapped) + running
    return max(load if plan.prepack else 0, steady)


def as_bundle(sketch: Sketch, kv: str) -> Sketch:
    """A model as `deploy --target cpu` writes it: scales beside their codes, and they and what is dense in float32."""
    return replace(sketch, known=tuple(w for s in sketch.weights for w in _widened(s)), runtime=RUNTIME, kv=kv)


def _widened(s: Stored) -> Iterator[Stored]:
    if not PATTERN.fullmatch(s.form):
        yield replace(s, form="f32", size_bytes=FLOAT32 * s.parameters)
        return
    scheme = parse_scheme(s.form)
    codes = s.parameters * scheme.bits // 8
    scales = FLOAT32 * s.parameters // scheme.group if scheme.group else 2 * max(s.size_bytes - codes, 0)
    yield replace(s, size_bytes=s.parameters // 2 if scheme.bits == 3 else codes)  # three bits lie in four
    yield replace(s, parameters=0, size_bytes=scales)
    if scheme.rank and scheme.group:  # without groups it stands among the scales
        yield replace(s, form="f32", parameters=0, size_bytes=2 * max(s.size_bytes - codes - scales // 2, 0))


def optimize_apart(ref: str | Path, home: Path, most: int, context: int | None, threads: int | None = None) -> Optimized:
    """`optimize` of a bundle in a process of its own: reading its graph takes more memory than many a cap allows."""
    request = {"ref": str(ref), "home": str(home), "most": most, "context": context, "threads": threads, "path": sys.path}
    done = subprocess.run(
        [sys.executable, "-P", "-c", BOOT], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DeepseekError(
            "The process that plans memory failed: {reason}",
            hint="Please report this.",
            reason=(done.stderr.strip().splitlines() or ["it left no message"])[-1],
        )
    answer = json.loads(done.stdout)
    if short := answer.get("short"):
        raise MemoryShort(short["message"], hint=short["hint"], **short["facts"])
    return Optimized(MemoryPlan(**answer.pop("plan")), choices=tuple(map(tuple, answer.pop("choices"))), **answer)


def main(request: dict[str, Any]) -> None:
    from deepseek_cli.handle import open_any
    from deepseek_cli.store import Store

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answer
    try:
        sketch = sketch_of(open_any(request["ref"], Store(Path(request["home"]))))
        answer = asdict(optimize(sketch, request["most"], request["context"], request["threads"]))
    except MemoryShort as error:
        answer = {"short": {"message": error.message, "hint": error.hint, "facts": error.facts}}
    with out:
        json.dump(answer, out)
