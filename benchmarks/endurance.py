"""Mixed load at a share of what a server can do, for as long as wanted: wrong answers, memory, and the budget of its KV cache.

    python benchmarks/endurance.py BUNDLE --minutes 60 --memory 300MB

What it can do is measured at the beginning, and again every few minutes, since other work on the machine comes and goes.
Between, requests come at random times. They differ in length, sampling and prefix; some clients leave. Every answer is
compared with what it was alone. `--save` appends a line of JSON for each look at the server, and for each wrong answer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from deepseek_cli.bench.arms import Arm, ask, started
from deepseek_cli.bench.client import ask as ask_server
from deepseek_cli.bench.client import connected, model_at
from deepseek_cli.spec import parse_size

KINDS = 48  # different requests, each asked alone before
LENGTHS, NEWS = (1, 60), (4, 96)  # sentences of a prompt, and tokens of an answer
CUT = 0.05  # of the clients leave
LOOK_SECONDS = 1.0
WARM_MINUTES = 5  # whose memory is no part of the slope


@dataclass
class Seen:
    """`late` are refused for want of room in the queue: more came than was measured that the server can do."""

    asked: int = 0
    cut: int = 0
    wrong: list[int] = field(default_factory=list)  # the kind of each
    late: int = 0
    failed: list[str] = field(default_factory=list)
    looks: list[dict[str, float]] = field(default_factory=list)


class Run:
    def __init__(self, arm: Arm, client: httpx2.AsyncClient, bodies: list[dict[str, Any]], save: Path | None) -> None:
        self.arm, self.client, self.bodies, self.save = arm, client, bodies, save
        self.url, self.draw, self.seen = arm.ready["url"], random.Random(1), Seen()
        self.alone: list[str] = []
        self.began = time.perf_counter()

    async def learn(self) -> None:
        self.alone = [(await ask_server(self.client, self.url, body)).text for body in self.bodies]

    async def one(self) -> None:
        kind, leaves = self.draw.randrange(KINDS), self.draw.random() < CUT
        pieces = self.draw.randrange(1, 8) if leaves else None
        reply = await ask_server(self.client, self.url, self.bodies[kind], most_pieces=pieces)
        self.seen.asked, self.seen.cut = self.seen.asked + 1, self.seen.cut + leaves
        if reply.error.startswith("429"):
            self.seen.late += 1
        elif reply.error:
            self.seen.failed.append(reply.error)
        else:
            right = self.alone[kind].startswith(reply.text) if leaves else reply.text == self.alone[kind]
            if not right:
                self.seen.wrong.append(kind)
                self._write({"kind": kind, "alone": self.alone[kind], "wrong": reply.text})

    async def capacity(self, clients: int, seconds: float) -> float:
        """Requests a second that clients get answered who always ask again."""
        began, before = time.perf_counter(), self.seen.asked

        async def visitor() -> None:
            while time.perf_counter() < began + seconds:
                await self.one()

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(visitor())
        return (self.seen.asked - before) / (time.perf_counter() - began)

    async def arrivals(self, rate: float, seconds: float) -> None:
        """Requests at random times, whatever became of those before."""
        at = time.perf_counter()
        end = at + seconds
        async with asyncio.TaskGroup() as group:
            while (at := at + self.draw.expovariate(rate)) < end:
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                group.create_task(self.one())

    async def watch(self) -> None:
        while True:
            text = (await self.client.get(f"{self.url}/metrics")).text
            found = dict(re.findall(r"^deepseek_(kv_\w+|queue_requests|active_requests) (\S+)$", text, re.MULTILINE))
            look = {name: float(value) for name, value in found.items()}
            look |= {"minutes": (time.perf_counter() - self.began) / 60, "rss": ask(self.arm, {"do": "spent"})["rss"]}
            self.seen.looks.append(look)
            self._write(look | {"asked": self.seen.asked})
            await asyncio.sleep(LOOK_SECONDS)

    def _write(self, record: dict[str, Any]) -> None:
        if self.save:
            with self.save.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")


def requests(model: str) -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [_request(model, kind, draw) for kind in range(KINDS)]


def _request(model: str, kind: int, draw: random.Random) -> dict[str, Any]:
    """Every third begins as others do, every other is drawn at random: by its seed it is the same each time."""
    sentences, new = (round(low * (high / low) ** draw.random()) for low, high in (LENGTHS, NEWS))
    system = "You are a helpful clerk. Answer in one sentence, and be polite. " * 4 if kind % 3 == 0 else ""
    body = {"model": model, "prompt": system + f"Client {kind} wrote again. " * sentences, "max_tokens": new, "ignore_eos": True}
    return {**body, "temperature": 0.8, "seed": kind} if kind % 2 else {**body, "temperature": 0}


async def endure(arm: Arm, options: argparse.Namespace) -> None:
    async with connected() as client:
        run = Run(arm, client, requests(await model_at(client, arm.ready["url"])), options.save)
        await run.learn()
        watching = asyncio.create_task(run.watch())
        rates = []
        while time.perf_counter() < run.began + 60 * options.minutes:
            rates.append(await run.capacity(options.clients, options.measure))
            await run.arrivals(options.share * rates[-1], 60 * options.again - options.measure)
            print(f"{(time.perf_counter() - run.began) / 60:.0f} min: {_said(run.seen)}", flush=True)
        watching.cancel()
    print(
        f"capacity {min(rates):.1f} – {max(rates):.1f} requests/s over {len(rates)} measurements, load {options.share:.0%} of it"
    )
    print(f"errors: {sorted(set(run.seen.failed)) or 'none'}")


def _said(seen: Seen) -> str:
    last = seen.looks[-1]
    budget, peak = last["kv_budget_bytes"] / 1e6, last["kv_peak_bytes"] / 1e6
    parts = [
        f"{seen.asked} asked, {seen.cut} cut, {len(seen.failed)} failed, {seen.late} refused as too many",
        f"{len(seen.wrong)} wrong, to {len(set(seen.wrong))} of {KINDS} different requests",
        f"KV at most {peak:.2f} of {budget:.2f} MB",
        f"waiting at most {max(look['queue_requests'] for look in seen.looks):.0f}",
        f"resident {last['rss']:.1f} MB{_slope(seen.looks)}",
    ]
    return "; ".join(parts)


def _slope(looks: Sequence[dict[str, float]]) -> str:
    """Of the means of minutes, behind the first ones, with twice its standard error. Open requests take memory too, and how
    many there are varies: they are a term of the regression."""
    late = (look for look in looks if look["minutes"] >= WARM_MINUTES)
    minutes = [list(group) for _, group in itertools.groupby(late, lambda look: int(look["minutes"]))]
    if len(minutes) < 5:
        return ""
    terms = [[1.0, _mean(m, "minutes") / 60, _mean(m, "queue_requests") + _mean(m, "active_requests")] for m in minutes]
    sizes = [_mean(m, "rss") for m in minutes]
    found, rest, _, _ = np.linalg.lstsq(np.array(terms), np.array(sizes))
    covariance = np.linalg.inv(np.array(terms).T @ np.array(terms)) * rest[0] / (len(sizes) - 3)
    each = f"{1000 * found[2]:.0f} kB for each open request"
    return f", {found[1]:+.2f} ± {2 * covariance[1, 1] ** 0.5:.2f} MB an hour beside {each}"


def _mean(looks: Sequence[dict[str, float]], name: str) -> float:
    return statistics.fmean(look[name] for look in looks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    for name, value in (("slots", 16), ("clients", 32), ("threads", 2), ("context", 1024)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("minutes", 60.0), ("share", 0.8), ("again", 5.0), ("measure", 20.0)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--memory", type=parse_size)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    settings = {"ref": options.bundle, "home": str(Path.home()), "module": "deepseek_cli.bench.server"}
    settings |= {name: getattr(options, name) for name in ("slots", "memory", "context", "threads")}
    with started(options.bundle, settings) as arm:
        if arm.error:
            raise arm.error
        asyncio.run(endure(arm, options))


if __name__ == "__main__":
    main()
