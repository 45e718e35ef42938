"""Servers under load, side by side: each of our own is started and stopped, others are asked where they are.

Rounds are interleaved over servers and loads, in alternating order, as `measure` does it with models.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from deepseek_cli.bench.arms import Arm, Figures, ask, name_apart, started
from deepseek_cli.bench.client import Round, connected, drive, model_at
from deepseek_cli.bench.environment import load_average, physical_cores
from deepseek_cli.bench.load import Load, is_url, most_clients
from deepseek_cli.bench.record import document
from deepseek_cli.bench.spec import BenchSpec
from deepseek_cli.bench.statistics import rank
from deepseek_cli.errors import DeepseekError, ModelError, NetworkError, UsageError
from deepseek_cli.quantize.calibration import BUILTIN
from deepseek_cli.reporter import SILENT, Reporter

WORDS = 0.75  # of English that make a token, about
STRIDE = 997  # words between the beginnings of two prompts, which thus share nothing
WARM_UPS = 2
AUTO_SLOTS = 16


@dataclass
class Served:
    """One server, and the process it runs in where that is ours."""

    ref: str
    url: str
    arm: Arm | None = None
    model: str = ""
    error: DeepseekError | None = None

    def spent(self) -> dict[str, Any]:
        return ask(self.arm, {"do": "spent"}) if self.arm else {}


def bench_servers(
    spec: BenchSpec,
    *,
    home: Path,
    context: int | None = None,
    threads: int | None = None,
    memory: int | None = None,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> tuple[dict[str, Any], DeepseekError | None]:
    """The document `deepseek.bench/2` with an arm for each server and load, and the error of the first that failed.

    Raises the error itself where every arm failed; UsageError where the key's file cannot be read.
    """
    key, before = _key(spec.api_key_file), load_average()
    slots = max(AUTO_SLOTS, most_clients(spec.loads))
    settings: dict[str, Any] = {"slots": slots, "context": context, "memory": memory, "threads": threads}
    said: dict[str, Any] = {
        "prompt_tokens": [spec.prompts[0]],
        "new_tokens": [spec.news[0]],
        "load": spec.load,
        "requests": spec.requests,
    }
    said |= {"first_limit": spec.first_limit, "gap_limit": spec.gap_limit, "seed": seed, "rounds": spec.rounds}
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_served(ref, {**settings, "home": str(home)})) for ref in spec.serve]
        arms = asyncio.run(_measure(servers, spec, key, seed, reporter))
    if all(arm.error for arm in arms):
        raise next(arm.error for arm in arms if arm.error)
    for arm in arms:
        if arm.error:
            reporter.warn("{model}: {reason}", model=arm.name, reason=str(arm.error))
    settings = {**settings, **said, "threads": threads or physical_cores()}
    return document(arms, settings, before), next((arm.error for arm in arms if arm.error), None)


@contextlib.contextmanager
def _served(ref: str, settings: dict[str, Any]) -> Iterator[Served]:
    if is_url(ref):
        yield Served(ref, ref)
        return
    with started(ref, {**settings, "ref": ref, "module": "deepseek_cli.bench.server"}) as arm:
        yield Served(ref, arm.ready.get("url", ""), arm, error=arm.error)


async def _measure(servers: Sequence[Served], spec: BenchSpec, key: str, seed: int, reporter: Reporter) -> list[Figures]:
    words = BUILTIN.read_text(encoding="utf-8").split()
    async with connected(key) as client:
        for server in servers:
            await _greet(client, server, spec, words)
        pairs = [(server, load, _figures(server, load)) for server in servers for load in spec.loads]
        name_apart([arm for _, _, arm in pairs])
        for index in range(spec.rounds):
            for place, (server, load, arm) in list(enumerate(pairs))[:: 1 if index % 2 == 0 else -1]:
                if not arm.error:
                    reporter.progress("Measuring", index * len(pairs) + place, spec.rounds * len(pairs), "loads")
                    salt = (index * len(pairs) + place) * spec.requests + WARM_UPS
                    bodies = [_body(server, spec, words, salt + i) for i in range(max(spec.requests, load.clients))]
                    await _round(client, server, load, arm, bodies, spec, seed + index, reporter)
    return [arm for _, _, arm in pairs]


async def _greet(client: httpx2.AsyncClient, server: Served, spec: BenchSpec, words: list[str]) -> None:
    """Learn the model's name, and warm up."""
    if server.error:
        return
    try:
        server.model = await model_at(client, server.url)
    except (NetworkError, ModelError) as error:
        server.error = error
        return
    await drive(client, server.url, Load(1), [_body(server, spec, words, i) for i in range(WARM_UPS)], 0)


def _figures(server: Served, load: Load) -> Figures:
    ready = dict(server.arm.ready) if server.arm else {"kind": "server"}
    ready["name"] = f"{ready.get('name', server.model or server.ref)}, {load}"
    return Figures(server.ref, ready, error=server.error)


async def _round(
    client: httpx2.AsyncClient,
    server: Served,
    load: Load,
    arm: Figures,
    bodies: list[dict[str, Any]],
    spec: BenchSpec,
    seed: int,
    reporter: Reporter,
) -> None:
    before = server.spent()
    found = await drive(client, server.url, load, bodies, seed)
    after = server.spent()
    for error, count in Counter(found.errors).items():
        reporter.warn(
            "{model}: {count} of {all} requests failed: {reason}", model=arm.name, count=count, all=len(bodies), reason=error
        )
    if not found.answers:
        hint = "See the server's log; the prompt may be too long for its context (--prompt-tokens)."
        arm.error = NetworkError(
            "No request to {model} was answered: {reason}", hint=hint, model=arm.name, reason=found.errors[0]
        )
        return
    values = figures_of(found, spec.first_limit, spec.gap_limit)
    if before and after:
        values["rss"] = after["rss"]
        values["processor"] = 1000 * (after["processor"] - before["processor"]) / max(1, sum(a.new for a in found.answers))
    arm.rounds.append(
        {"values": values, "missing": {name: "nothing was counted" for name, value in values.items() if value is None}}
    )


def figures_of(found: Round, first_limit: float, gap_limit: float) -> dict[str, float | None]:
    """METRICS of one round, limits in ms; what nothing was counted of is None."""
    answers = found.answers
    good = sum(1000 * a.first <= first_limit and 1000 * a.gap <= gap_limit for a in answers)
    samples = {
        "ttft": [a.first for a in answers],
        "itl": [gap for a in answers for gap in a.gaps],
        "e2e": [a.whole for a in answers],
    }
    percentiles = {
        f"{name}_p{p}": 1000 * rank(times, p / 100) if times else None for name, times in samples.items() for p in (50, 95, 99)
    }
    prompts = [a.prompt for a in answers if a.prompt]
    return {
        "tokens": sum(a.new for a in answers) / found.seconds,
        "answers": len(answers) / found.seconds,
        "goodput": good / found.seconds,
        **percentiles,
        "failed": float(len(found.errors)),
        "prompt": sum(prompts) / len(prompts) if prompts else None,
    }


def _body(server: Served, spec: BenchSpec, words: list[str], number: int) -> dict[str, Any]:
    begin = number * STRIDE % len(words)
    prompt = " ".join([str(number), *(words + words)[begin : begin + max(1, round(WORDS * spec.prompts[0]))]])
    body = {"model": server.model, "prompt": prompt, "max_tokens": spec.news[0], "temperature": 0}
    return {**body, "ignore_eos": True} if spec.ignore_end else body


def _key(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        lines = (line.partition("#")[0].split() for line in file.read_text(encoding="utf-8").splitlines())
        return next(line[0] for line in lines if line)
    except (OSError, UnicodeDecodeError, StopIteration) as error:
        raise UsageError(
            "{file} cannot be read: {reason}", hint="Write one key a line.", file=file, reason=error or "it holds no key"
        ) from None
