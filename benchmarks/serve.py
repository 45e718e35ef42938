"""`deepseek serve` under one and under many clients, in turns: tokens per second, and the time between tokens.

python -m benchmarks.serve BUNDLE --clients 16 --rounds 3 --threads 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deepseek_cli.handle import open_any
from deepseek_cli.runtime.session import open_session
from deepseek_cli.serve.server import Place, make_server, open_service
from deepseek_cli.store import Store

NEW = 64


def ask(url: str, client: int) -> list[float]:
    """When each token of one answer came."""
    body = {"prompt": f"Client {client} wrote a long letter. " * 8, "max_tokens": NEW, "temperature": 0, "stream": True}
    body |= {"logit_bias": {"0": -100, "2": -100}, "logprobs": 0}  # an event for every token, and no early end
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as lines:
        return [time.perf_counter() for line in lines if b'"logprobs":{' in line]


def load(url: str, clients: int, salt: int) -> tuple[float, list[float], float]:
    """Tokens per second in all, seconds between tokens, processor seconds per token."""
    start, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(clients) as pool:
        came = list(pool.map(lambda i: ask(url, salt + i), range(clients)))
    count = sum(map(len, came))
    gaps = [b - a for times in came for a, b in itertools.pairwise(times)]
    return count / (time.perf_counter() - start), gaps, (time.process_time() - used) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    for name, value in (("clients", 16), ("rounds", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    bundle = open_any(options.bundle, Store(Path.home()))
    session = open_session(bundle, context=1024, threads=options.threads)
    service = open_service(bundle, slots=options.clients, context=1024, threads=options.threads)
    up, where = threading.Event(), []
    server = make_server(service, Place(port=0), lambda record: None, lambda port: (where.append(port), up.set()))
    thread = threading.Thread(target=server.run)
    thread.start()
    up.wait()
    found: dict[int, list[tuple[float, list[float], float]]] = {1: [], options.clients: []}
    alone = []
    for turn in range(options.rounds):
        for clients, rounds in found.items():
            rounds.append(load(f"http://127.0.0.1:{where[0]}", clients, 1000 * turn + 100 * clients))
        session.rewind(0)
        session.feed([5] * 64)
        start = time.perf_counter()
        for token in range(NEW):
            session.feed([100 + token])
        alone.append(NEW / (time.perf_counter() - start))
    server.should_exit = True
    thread.join()
    for clients, rounds in found.items():
        gaps = sorted(gap for _, each, _ in rounds for gap in each)
        rate, cost = (statistics.median(r[i] for r in rounds) for i in (0, 2))
        print(f"{clients} clients: {rate:.1f} tokens/s, {1e3 * cost:.1f} ms of processor time each,")
        print(f"    {1e3 * statistics.median(gaps):.1f} ms between tokens, p99 {1e3 * gaps[int(len(gaps) * 0.99)]:.1f} ms")
    one, many = (statistics.median(r[0] for r in rounds) for rounds in found.values())
    gap = statistics.median(gap for _, each, _ in found[1] for gap in each)
    print(f"{many / one:.2f} times one client's tokens/s")
    print(f"one client's decode is {1 / gap / statistics.median(alone):.2f} times the session's")


if __name__ == "__main__":
    main()
