"""One model in a process of its own, measured on request.

Reads one JSON object a line: first the settings, then {"do": …}, one of ANSWERS. Answers each with one line: `ready`, then what
was asked for, or `error`, after which it ends. Its input's end ends it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_cli.bench.metrics import decodings
from deepseek_cli.bench.statistics import is_stable, rank
from deepseek_cli.errors import DeepseekError, MemoryShort, UsageError
from deepseek_cli.profile import memory
from deepseek_cli.spec import packed_bytes

if TYPE_CHECKING:
    from deepseek_cli.runtime.machine_cache import MachineCache

MOST_WARM_UPS = 5
NOT_TOLD = "this system does not tell it"
Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Arm:
    session: Any
    prompt: list[int]  # then what fills the cache up to the greatest depth
    prompts: tuple[int, ...]  # all three rising
    news: tuple[int, ...]
    depths: tuple[int, ...]
    model: Any = None
    sparse: bool = False


def main(settings: dict[str, Any]) -> None:
    """Answer requests until there are no more; `measure.check` says what `settings` holds."""
    with speaking() as say:
        arm, ready = load(settings)
        say("ready", **ready)
        for line in sys.stdin:
            request = json.loads(line)["do"]
            say(request, **ANSWERS[request](arm))


@contextmanager
def speaking() -> Iterator[Say]:
    """Standard output for answers alone; an error in the block is the last of them."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answers

    def say(event: str, **facts: Any) -> None:
        out.write(json.dumps({"event": event, **facts}) + "\n")
        out.flush()

    try:
        yield say
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
    fast = settings.get("fast_prefill", False)
    cache = prepared_cache(settings, model, fast)
    start = time.perf_counter()
    session = open_session(
        model,
        context=settings["context"],
        threads=settings["threads"],
        device=settings["device"],
        sparse=sparse,
        plan=plan,
        cache=cache,
        fast_prefill=fast,
    )
    seconds = time.perf_counter() - start
    draw = random.Random(settings["seed"])
    prompts, news, depths = (tuple(settings[key]) for key in ("prompt_tokens", "new_tokens", "depths"))
    prompt = [draw.randrange(model.config.vocabulary) for _ in range(max(*prompts, *depths))]
    facts = {
        "name": " ".join([model.name, *_said(settings, "sparse"), *_said(settings, "fast_prefill"), *_said(settings, "most")]),
        "kind": "bundle" if isinstance(model, Bundle) else "model",
        "bytes": model.size_bytes,
        "quantization": model.manifest.quantization,
        "memory_plan": plan and plan.as_record(),
        "load": seconds,
    }
    return Arm(session, prompt, prompts, news, depths, model, sparse=sparse is not None), facts


def _said(settings: dict[str, Any], name: str) -> list[str]:
    """How an arm is told from others of the same model."""
    words = {"fast_prefill": "fast prefill", "most": "planned"}
    return [str(words.get(name, settings[name]))] if settings.get(name) else []


def prepared_cache(settings: dict[str, Any], model: Any, fast: bool) -> MachineCache | None:
    """Where a cpu bundle's weights lie packed, if they are to; without sparse attention or a plan."""
    from deepseek_cli.runtime.machine_cache import MachineCache
    from deepseek_cli.runtime.packing import DECODE, PREFILL, packed
    from deepseek_cli.store import Store

    other = settings.get("sparse") or settings.get("most")
    most = packed_bytes(settings.get("packed_cache"), fast)
    if not most or other or getattr(model, "target", "") != "cpu":
        return None
    cache = MachineCache(Store(Path(settings["home"])).packed, most)
    with contextlib.suppress(DeepseekError, OSError):  # it is measured as it runs where nothing can be kept
        for form in (DECODE, PREFILL)[: 1 + fast]:
            packed(model.root, form, cache)
    return cache


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


def first_token(arm: Arm) -> dict[str, Any]:
    """The answer to the first prompt, which is all that a start's time is for."""
    return {"token": prefill(arm, arm.prompts[0])[0]}


def identify(arm: Arm) -> dict[str, Any]:
    """What tells the model from another of its name."""
    from deepseek_cli.manifest import fingerprint

    root = arm.model.root
    return {"digest": fingerprint(root, [root] if root.is_file() else [f for f in root.rglob("*") if f.is_file()])}


def about(arm: Arm) -> dict[str, Any]:
    """What is known of the model without measuring; asked for last, since it takes memory."""
    from deepseek_cli.bench.demand import demand

    return demand(arm.model, arm.prompts, arm.news, arm.depths, sparse=arm.sparse)


def warm_up(arm: Arm) -> dict[str, Any]:
    """Whole rounds, unrecorded, until two in a row take the same time."""
    seconds: list[float] = []
    while len(seconds) < MOST_WARM_UPS and not is_stable(seconds):
        start = time.perf_counter()
        measure_round(arm)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "stable": is_stable(seconds)}


def measure_round(arm: Arm) -> dict[str, Any]:
    """Each prompt, and one run of decoding at each depth, the greatest first: rewinding reaches the others from there."""
    session, values, all_gaps = arm.session, dict[str, float | None](), dict[str, list[float]]()
    for count in arm.prompts:
        token, seconds, until_token = prefill(arm, count)
        values |= {f"prefill@{count}": count / seconds, f"first_token@{count}": 1000 * until_token}
    for depth in reversed(arm.depths):
        if session.position < depth:
            session.feed(arm.prompt[session.position : depth])
        session.rewind(depth)
        gaps = decode(session, token, arm.news[-1])
        for where, new in decodings(depth, arm.news).items():
            part = gaps[:new]
            values[f"decode@{where}"] = new / sum(part)
            values[f"gap_p50@{where}"], values[f"gap_p95@{where}"] = 1000 * rank(part, 0.5), 1000 * rank(part, 0.95)
            all_gaps[where] = part
        if depth == arm.depths[-1]:
            values |= memory_now(session)
    missing = dict.fromkeys((name for name, value in values.items() if value is None), NOT_TOLD)
    return {"values": values, "gaps": all_gaps, "missing": missing}


def prefill(arm: Arm, count: int) -> tuple[int, float, float]:
    """The likeliest token behind the first `count`, seconds of feeding them, seconds until it was chosen."""
    arm.session.rewind(0)
    start = time.perf_counter()
    logits = arm.session.feed(arm.prompt[:count])
    fed = time.perf_counter()
    token = int(logits[-1].argmax())
    return token, fed - start, time.perf_counter() - start


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


ANSWERS: dict[str, Callable[[Arm], dict[str, Any]]] = {
    "first-token": first_token,
    "identify": identify,
    "warm-up": warm_up,
    "round": measure_round,
    "about": about,
}
