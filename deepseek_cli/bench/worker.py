"""One model in a process of its own, measured on request.

Reads one JSON object a line: first the settings, then {"do": "warm-up"} or {"do": "round"}. Answers each with one line:
`ready`, `warmed`, `round`, or `error`, after which it ends. Its input's end ends it too.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.bench.metrics import is_stable, rank
from deepseek_cli.errors import DeepseekError, MemoryShort, UsageError
from deepseek_cli.profile import memory

MOST_WARM_UPS = 5
NOT_TOLD = "this system does not tell it"


@dataclass(frozen=True, slots=True)
class Arm:
    session: Any
    prompt: list[int]  # then what fills the cache up to the greatest depth
    prompt_tokens: int
    new_tokens: int
    depths: tuple[int, ...]  # rising


def main(settings: dict[str, Any]) -> None:
    """Answer requests until there are no more; `measure.start` says what `settings` holds."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answers

    def say(event: str, **facts: Any) -> None:
        out.write(json.dumps({"event": event, **facts}) + "\n")
        out.flush()

    try:
        arm, ready = load(settings)
        say("ready", **ready)
        for line in sys.stdin:
            if json.loads(line)["do"] == "warm-up":
                say("warmed", **warm_up(arm))
            else:
                say("round", **measure_round(arm))
    except DeepseekError as error:
        facts = {name: str(value) for name, value in error.facts.items()}
        say("error", kind=type(error).__name__, message=error.message, hint=error.hint, facts=facts)
    except MemoryError:
        message = "There is not enough memory for this run."
        say("error", kind=MemoryShort.__name__, message=message, hint="Use a smaller --depth.", facts={})


def load(settings: dict[str, Any]) -> tuple[Arm, dict[str, Any]]:
    """Open the model; the runtime's imports are done before its clock starts."""
    from deepseek_cli import plugins
    from deepseek_cli.handle import Bundle, open_any
    from deepseek_cli.ops import SparseSpec
    from deepseek_cli.runtime.session import SESSIONS, open_session
    from deepseek_cli.store import Store

    model = open_any(settings["ref"], Store(Path(settings["home"])))
    if isinstance(model, Bundle):
        plugins.load(SESSIONS.get(model.target, SESSIONS["cpu"]))
    else:
        import deepseek_cli.runtime.torch_session  # noqa: F401
    sparse = SparseSpec.parse(settings["sparse"]) if settings.get("sparse") else None
    plan = plan_within(settings, model) if settings.get("most") else None
    start = time.perf_counter()
    session = open_session(
        model, context=settings["context"], threads=settings["threads"], device=settings["device"], sparse=sparse, plan=plan
    )
    seconds = time.perf_counter() - start
    draw = random.Random(settings["seed"])
    longest = max(settings["prompt_tokens"], *settings["depths"])
    prompt = [draw.randrange(model.config.vocabulary) for _ in range(longest)]
    facts = {
        "name": " ".join([model.name, *([settings["sparse"]] if sparse else []), *(["planned"] if plan else [])]),
        "kind": "bundle" if isinstance(model, Bundle) else "model",
        "bytes": model.size_bytes,
        "quantization": model.manifest.quantization,
        "memory_plan": plan and plan.as_record(),
        "load": seconds,
    }
    return Arm(session, prompt, settings["prompt_tokens"], settings["new_tokens"], tuple(settings["depths"])), facts


def plan_within(settings: dict[str, Any], model: Any) -> Any:
    """The plan of --optimize-memory. Raises UsageError for anything but a cpu bundle."""
    from deepseek_cli.profile.optimize import optimize_apart

    if getattr(model, "target", "") != "cpu":
        raise UsageError(
            "--optimize-memory is for cpu bundles, and {model} is none.",
            hint="Use: deepseek deploy --target cpu",
            model=model.name,
        )
    return optimize_apart(model.root, Path(settings["home"]), settings["most"], settings["context"], settings["threads"]).plan


def warm_up(arm: Arm) -> dict[str, Any]:
    """Whole rounds, unrecorded, until two in a row take the same time."""
    seconds: list[float] = []
    while len(seconds) < MOST_WARM_UPS and not is_stable(seconds):
        start = time.perf_counter()
        measure_round(arm)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "stable": is_stable(seconds)}


def measure_round(arm: Arm) -> dict[str, Any]:
    """One prefill, and one run of decoding at each depth, the greatest first: rewinding reaches the others from there."""
    session = arm.session
    session.rewind(0)
    start = time.perf_counter()
    logits = session.feed(arm.prompt[: arm.prompt_tokens])
    prefilled = time.perf_counter()
    token = int(logits[-1].argmax())
    chosen = time.perf_counter()
    values: dict[str, float | None] = {"prefill": arm.prompt_tokens / (prefilled - start), "first_token": 1000 * (chosen - start)}
    for depth in reversed(arm.depths):
        if session.position < depth:
            session.feed(arm.prompt[session.position : depth])
        session.rewind(depth)
        gaps = decode(session, token, arm.new_tokens)
        values[f"decode@{depth}"] = len(gaps) / sum(gaps)
        values[f"gap_p50@{depth}"], values[f"gap_p95@{depth}"] = 1000 * rank(gaps, 0.5), 1000 * rank(gaps, 0.95)
        if depth == arm.depths[-1]:
            values |= memory_now(session)
    return {"values": values, "missing": dict.fromkeys((name for name, value in values.items() if value is None), NOT_TOLD)}


def decode(session: Any, token: int, count: int) -> list[float]:
    """Seconds of each of `count` greedy steps; the end-of-text token is a token like any other."""
    gaps = []
    for _ in range(count):
        start = time.perf_counter()
        token = int(session.feed([token])[-1].argmax())
        gaps.append(time.perf_counter() - start)
    return gaps


def memory_now(session: Any) -> dict[str, float | None]:
    now, peak = memory.resident(), memory.peak()
    file = None if now.anonymous is None else now.rss - now.anonymous
    sizes = {"peak": peak, "rss": now.rss, "anonymous": now.anonymous, "file": file, "kv": session.kv_bytes}
    return {name: None if size is None else size / 1e6 for name, size in sizes.items()}
