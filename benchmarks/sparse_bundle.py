"""Sparse attention in bundles, beside dense attention: one token at a depth, the whole model in ONNX Runtime.

    python benchmarks/sparse_bundle.py [--parts llama,latent,memory,quality]

**llama**: SmolLM2-135M, int4 in groups of 32, with rotary tables as long as the depths want. **latent**: five layers of
V2-Lite's dimensions, int4 (`latent.py`). The cache is filled with random numbers; a turn decodes some tokens, of which the first,
which learns the pages' bounds, is left out. **memory**: what is resident with SmolLM2, in a process for each arm.
**quality**: the same SmolLM2 reads Python's own documentation (`pydoc_data.topics`), first all at once and then token by token:
how many next tokens it predicts, how often it agrees with dense attention, and its mean loss.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import latent
import numpy as np
from common import arguments, interleave, median, run, show
from speed import bundle, subject

from deepseek_cli.handle import open_model
from deepseek_cli.ops.onnx_ops import emit
from deepseek_cli.profile.memory import resident
from deepseek_cli.runtime.onnx_session import GRAPH, OnnxSession
from deepseek_cli.runtime.sparse_session import SparseSession
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store

STEPS = 12  # tokens a turn
LONGEST = 16384
READ, WRITTEN = 3072, 1024  # tokens of `quality`: at once, one by one
BUDGETS = {"llama": (160, 512), "latent": (160, 512)}
Open = Callable[[int], OnnxSession]  # most keys, 0 for all


def llama(work: Path, threads: int) -> Open:
    folder = work / "sparse-bundle"
    handle = open_model(str(bundle(work, subject(work), "int4-g32, head int4").with_name("model")), Store(work / "home"))
    if not (folder / GRAPH).exists():
        folder.mkdir(parents=True, exist_ok=True)
        emit(handle.architecture, handle.config, handle.weights, folder / GRAPH, LONGEST + 2 * STEPS)
    return partial(opened, folder, handle.config, LONGEST + 2 * STEPS, threads)


def latents(work: Path, threads: int) -> Open:
    model = latent.stack(num_hidden_layers=5)
    latent.bundle(work, model, "stack")
    return partial(opened, work / "latent-stack-5", model.config, latent.CONTEXT, threads)


def opened(folder: Path, config: Any, context: int, threads: int, most: int) -> OnnxSession:
    return SparseSession(folder, config, context, threads, most=most) if most else OnnxSession(folder, config, context, threads)


def turn(session: OnnxSession, depth: int) -> list[float]:
    """Milliseconds of each token behind `depth` others."""
    fill(session, depth)
    session.rewind(depth)
    session.feed([7])
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        session.feed([7])
        times.append(1e3 * (time.perf_counter() - start))
    return times


def fill(session: OnnxSession, depth: int) -> None:
    draw, step = np.random.default_rng(session.position), 256
    for start in range(session.position, depth, step):
        rows = session.cache[..., start : min(start + step, depth), :]
        rows[:] = draw.standard_normal(rows.shape, np.float32)
    session.position = max(session.position, depth)


def speed(part: str, open_arm: Open, depths: list[int], rounds: int) -> None:
    rows = []
    sessions = {most: open_arm(most) for most in (0, *BUDGETS[part])}
    for depth in [d for d in depths if d + 2 * STEPS <= sessions[0].context]:
        arms = {str(most): partial(turn, session, depth) for most, session in sessions.items()}
        seen = {most: [t for times in turns[1:] for t in times] for most, turns in interleave(arms, rounds + 1).items()}
        plain = seen.pop("0")
        for most, times in seen.items():
            figures = [f"{median(x):.2f} / {min(x):.2f}" for x in (plain, times)]
            ratios = [f"{f(plain) / f(times):.2f}" for f in (median, min)]
            rows.append([depth, f"tokens={most}", *figures, *ratios])
    show([part, "sparse", "dense ms a token, median / least", "sparse ms", "times faster, median", "least"], rows)


def quality(open_arm: Open, tokens: list[int]) -> None:
    rows, plain = [], None
    for most in (0, *BUDGETS["llama"]):
        session, seen = open_arm(most), []
        session.feed(tokens[: READ - 1])
        for token in tokens[READ - 1 : -1]:
            seen.append(session.feed([token])[0].copy())
        logits, right = np.array(seen), np.array(tokens[READ:])
        best, top = logits.argmax(1), logits.max(1)
        loss = np.log(np.exp(logits - top[:, None]).sum(1)) + top - logits[np.arange(len(right)), right]
        plain = best if plain is None else plain
        rows.append([f"tokens={most}" if most else "dense", f"{(best == right).mean():.1%}", f"{(best == plain).mean():.1%}"])
        rows[-1].append(f"{loss.mean():.3f}")
    show([f"{len(right)} tokens behind {READ}", "right", "as dense", "loss, nats"], rows)


def memory(depths: list[int], args: argparse.Namespace) -> None:
    rows = []
    for depth in depths:
        words = [sys.executable, __file__, "--threads", args.threads, "--work", args.work, "--lengths", depth]
        sizes = [json.loads(run(*words, "--most", most).out) for most in (0, *BUDGETS["llama"])]
        rows.append([depth, *(f"{size:.0f}" for size in sizes)])
    show(["resident MB at", "dense", *(f"tokens={most}" for most in BUDGETS["llama"])], rows)


def main() -> None:
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--parts", default="llama,latent,memory,quality")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", default="1024,4096,8192,16384", help="tokens")
    parser.add_argument("--most", type=int, help=argparse.SUPPRESS)  # one process of `memory`
    args = parser.parse_args()
    depths = [int(word) for word in args.lengths.split(",")]
    if args.most is not None:
        turn(llama(args.work, args.threads)(args.most), depths[0])
        print(json.dumps(resident().rss / 1e6))
        return
    parts = args.parts.split(",")
    for part, subject_of in (("llama", llama), ("latent", latents)):
        if part in parts:
            speed(part, subject_of(args.work, args.threads), depths, args.rounds)
    if "memory" in parts:
        memory(depths, args)
    if "quality" in parts:
        text = "\n\n".join(pydoc_data.topics.topics.values())[: 16 * (READ + WRITTEN)]
        tokens = open_tokenizer(subject(args.work)).encode(text)[: READ + WRITTEN]
        quality(llama(args.work, args.threads), tokens)


if __name__ == "__main__":
    main()
