"""`deepseek serve` beside the session alone, and a stress test of its loop.

python benchmarks/serve.py BUNDLE --clients 16 --rounds 3 --threads 2   # one client, many, and a session's decode, in turns
python benchmarks/serve.py BUNDLE --peers                               # beside llama.cpp's server and OpenVINO GenAI
python benchmarks/serve.py BUNDLE --steps                               # one step by its answers, in int4 and in int8
python benchmarks/serve.py BUNDLE --stress 10000                        # short requests, 5 % cut mid-stream
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import time
from functools import partial
from typing import Any

from common import WORK

from deepseek_cli.bench.arms import Arm, ask, started
from deepseek_cli.bench.client import Reply, connected, drive, model_at
from deepseek_cli.bench.client import ask as ask_server
from deepseek_cli.bench.load import Load
from deepseek_cli.bench.serve import figures_of
from deepseek_cli.handle import open_any
from deepseek_cli.runtime.session import open_session
from deepseek_cli.store import Store

NEW = 64
CUT = 0.05  # of the clients of the stress test leave
KINDS = 50  # different requests in it, each asked alone before
REPORTS = 10


def request(model: str, number: int, new: int, sentences: int = 8) -> dict[str, Any]:
    prompt = f"Client {number} wrote a long letter. " * sentences
    return {"model": model, "prompt": prompt, "max_tokens": new, "temperature": 0, "ignore_eos": True}


async def measured(arm: Arm, options: argparse.Namespace, session: Any) -> None:
    url, alone = arm.ready["url"], []
    loads: dict[int, list[dict[str, Any]]] = {1: [], options.clients: []}
    async with connected() as client:
        model = await model_at(client, url)
        for turn in range(options.rounds):
            for clients, rounds in loads.items():
                bodies = [request(model, 1000 * turn + 100 * clients + i, NEW) for i in range(clients)]
                before, own = ask(arm, {"do": "spent"}), time.process_time()
                found = await drive(client, url, Load(clients), bodies, turn)
                after, own = ask(arm, {"do": "spent"}), time.process_time() - own
                spent = {name: after[name] - before[name] for name in ("processor", "overhead")} | {"client": own}
                new = sum(a.new for a in found.answers)
                rounds.append({**figures_of(found, 1000, 200), **{name: 1e3 * s / new for name, s in spent.items()}})
            session.rewind(0)
            session.feed([5] * NEW)
            start = time.perf_counter()
            for token in range(NEW):
                session.feed([100 + token])
            alone.append(NEW / (time.perf_counter() - start))
    middle = {n: {name: statistics.median(r[name] for r in rounds) for name in rounds[0]} for n, rounds in loads.items()}
    for clients, found in middle.items():
        print(f"{clients} clients: {found['tokens']:.1f} tokens/s, {found['processor']:.2f} ms of processor time each,")
        print(f"    of it {found['overhead']:.2f} ms outside the model; {found['client']:.2f} ms more in the client,")
        print(f"    {found['itl_p50']:.1f} ms between tokens, p99 {found['itl_p99']:.1f} ms")
    print(f"{middle[options.clients]['tokens'] / middle[1]['tokens']:.2f} times one client's tokens/s")
    print(f"one client's decode is {1e3 / middle[1]['itl_p50'] / statistics.median(alone):.2f} times the session's")


async def stress(arm: Arm, options: argparse.Namespace) -> None:
    """Every answer is what it was alone; cut ones are its beginning. Prints resident memory as it goes."""
    url, draw = arm.ready["url"], random.Random(0)
    wrong, failed, cut = 0, 0, 0
    sizes: list[float] = []
    async with connected() as client:
        model = await model_at(client, url)
        bodies = [request(model, kind, 4 + kind % 8, 1) for kind in range(KINDS)]
        alone = [(await ask_server(client, url, body)).text for body in bodies]
        numbers = itertools.count()

        async def visitor() -> None:
            nonlocal wrong, failed, cut
            while (number := next(numbers)) < options.stress and time.perf_counter() < end:
                kind, leaves = draw.randrange(KINDS), draw.random() < CUT
                reply: Reply = await ask_server(client, url, bodies[kind], most_pieces=1 if leaves else None)
                right = alone[kind].startswith(reply.text) if leaves else reply.text == alone[kind]
                failed, wrong, cut = failed + bool(reply.error), wrong + (not right and not reply.error), cut + leaves
                if number % max(1, options.stress // REPORTS) == 0:
                    sizes.append(ask(arm, {"do": "spent"})["rss"])

        end = time.perf_counter() + options.seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(options.clients):
                group.create_task(visitor())
    asked = min(next(numbers) - options.clients, options.stress)
    print(f"{asked} requests, {cut} cut: {wrong} wrong, {failed} failed; resident MB {' '.join(f'{size:.1f}' for size in sizes)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    for name, value in (("clients", 16), ("rounds", 3), ("threads", 2), ("context", 1024), ("stress", 0), ("seconds", 180)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--batch-int8", action="store_true", help="serve with --set batch_int8=true")
    options = parser.parse_args()
    settings = {"ref": options.bundle, "home": str(WORK / "home"), "slots": options.clients, "memory": None}
    settings |= {"context": options.context, "threads": options.threads, "module": "deepseek_cli.bench.server"}
    settings["batch_int8"] = options.batch_int8
    if options.steps:
        from serve_steps import measure

        measure(options)
        return
    if options.peers:
        from serve_peers import compare

        compare(settings, options, partial(request, new=NEW))
        return
    with started(options.bundle, settings) as arm:
        if arm.error:
            raise arm.error
        if options.stress:
            asyncio.run(stress(arm, options))
        else:
            bundle = open_any(options.bundle, Store(WORK / "home"))
            asyncio.run(measured(arm, options, open_session(bundle, context=options.context, threads=options.threads)))


if __name__ == "__main__":
    main()
