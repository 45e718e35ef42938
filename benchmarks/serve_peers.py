"""Our server beside llama.cpp's and OpenVINO GenAI's continuous batching, the same requests in turns: `serve.py --peers`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import PEERS, WORK, show

from deepseek_cli.bench.arms import Arm, ask, started
from deepseek_cli.bench.client import Reply, Round, connected, drive, model_at
from deepseek_cli.bench.load import Load
from deepseek_cli.bench.serve import figures_of

FILES = WORK / "smollm2-off-grid-peers"
WORKER = Path(__file__).with_name("serve_worker.py")
OURS: dict[str, dict[str, Any]] = {"ours, int4": {}, "ours, batch_int8": {"batch_int8": True}}
RIVALS = {  # name → environment, kind of serve_worker.py, what it runs, goal for our tokens a second over its own
    "llama.cpp's server, Q4_0": ("xl", "llama", FILES / "q4_0.gguf", 1.2),
    "OpenVINO GenAI, continuous batching": ("ov", "openvino", FILES / "openvino", 1.0),
}
COLUMNS = ("tokens", "itl_p50", "itl_p99", "processor", "overhead")
Body = Callable[[str, int], dict[str, Any]]


def compare(settings: dict[str, Any], options: argparse.Namespace, body: Body) -> None:
    """Prints what each does with one client and with many, and how many times the others' tokens a second ours are."""
    with contextlib.ExitStack() as stack:
        arms = {name: stack.enter_context(started(options.bundle, {**settings, **own})) for name, own in OURS.items()}
        for name, (environment, kind, path, _) in RIVALS.items():
            python = PEERS / environment / "bin/python"
            if python.exists() and path.exists():
                words = [str(python), str(WORKER), kind]
                arms[name] = stack.enter_context(started(str(path), {**settings, "ref": str(path)}, words))
            else:
                print(f"{name} is left out: there is no {path if python.exists() else python}.", file=sys.stderr)
        for arm in arms.values():
            if arm.error:
                raise arm.error
        found = asyncio.run(_turns(arms, options, body))
    _print(found, options.clients)


async def _turns(arms: dict[str, Arm], options: argparse.Namespace, body: Body) -> dict[tuple[str, int], list[dict[str, Any]]]:
    found: dict[tuple[str, int], list[dict[str, Any]]] = {(name, n): [] for name in arms for n in (1, options.clients)}
    async with connected() as client:
        models = {name: await model_at(client, arm.ready["url"]) if "url" in arm.ready else "" for name, arm in arms.items()}
        for turn in range(-1, options.rounds):  # the first is to warm up
            for name, clients in list(found)[:: 1 if turn % 2 else -1]:
                bodies = [body(models[name], 1000 * (turn + 2) + 100 * clients + i) for i in range(clients)]
                figures = await _load(client, arms[name], bodies)
                if turn >= 0:
                    found[name, clients].append(figures)
    return found


async def _load(client: Any, arm: Arm, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    before = ask(arm, {"do": "spent"})
    if "url" in arm.ready:
        answered = await drive(client, arm.ready["url"], Load(len(bodies)), bodies, 0)
    else:
        said = ask(arm, {"do": "answer", "bodies": bodies})
        answered = Round((Reply(gaps=tuple(said["gaps"]), new=said["new"]),), said["seconds"])
    after = ask(arm, {"do": "spent"})
    new = sum(answer.new for answer in answered.answers)
    wanted = sum(body["max_tokens"] for body in bodies)
    if new != wanted:
        raise SystemExit(f"{arm.name} gave {new} of {wanted} tokens: {answered.errors[:1]}")
    spent = {name: 1e3 * (after[name] - before[name]) / new for name in ("processor", "overhead") if name in after}
    return {"overhead": None, **figures_of(answered, 1000, 200), **spent}


def _print(found: dict[tuple[str, int], list[dict[str, Any]]], clients: int) -> None:
    rows = []
    for (name, count), rounds in found.items():
        middle = {key: _middle([r[key] for r in rounds]) for key in COLUMNS}
        rows.append([name, count, *middle.values()])
    show(
        ("server", "clients", "tok/s", "between tokens, ms", "p99", "processor, ms/token", "of that outside the model"),
        rows,
    )
    for ours in OURS:
        ratio = _ratio(found[ours, clients], found[ours, 1])
        print(f"{ours}: {clients} clients have {ratio:.2f} times one client's tokens/s (goal 4)")
        for rival, (*_, goal) in RIVALS.items():
            if (rival, clients) in found:
                ratio = _ratio(found[ours, clients], found[rival, clients])
                print(f"{ours}: {ratio:.2f} times {rival} at {clients} clients (goal {goal})")


def _middle(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.2f}" if known else "-"


def _ratio(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a["tokens"] / b["tokens"] for a, b in zip(some, others, strict=True))
