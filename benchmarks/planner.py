"""What `compress` predicts of plans, spread over all sizes, beside what they come to.

    python benchmarks/planner.py [--model MODEL] [--plans 20] [--level fast]

Plans are carried out in a seeded order. Divergence is predicted before any is carried out, and again, as the loop does, by what
those before it came to. What was measured of weights is kept between runs, in the benchmarks' folder.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from common import WORK, show

from deepseek_cli.compress import costs
from deepseek_cli.compress.candidates import Planned, Planner
from deepseek_cli.compress.loop import expected
from deepseek_cli.compress.plan import TOKENS, beside
from deepseek_cli.compress.shape import Shape
from deepseek_cli.evaluate import HandlePredictor, Windows, compare, cut_windows
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize.calibration import read_calibration
from deepseek_cli.quantize.engine import REPORT_WINDOWS, quantize
from deepseek_cli.reporter import SILENT
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store

WITHIN = 0.3  # of the measured divergence


@dataclass(frozen=True, slots=True)
class Outcome:
    planned: Planned
    alone: float  # the sum of what units cause alone
    kl: float
    size_bytes: int


def planner_of(handle: ModelHandle, level: str, name: str, count: int = 0, zero_points: bool = True) -> Planner:
    """With the costs of rounding, measured once for all runs of the benchmarks under this `name`; on `count` windows, or all."""
    tokenizer = open_tokenizer(handle.root)
    windows = read_calibration(tokenizer, "builtin", TOKENS, handle.config.context).windows
    shape = Shape(handle, tokenizer, windows)
    WORK.mkdir(parents=True, exist_ok=True)
    looked_at = costs.windows_of(windows)[: count or None]
    kept = WORK / f"costs-{name}-{len(looked_at)}.json"
    measured = costs.measure(handle, looked_at, kept, SILENT, zero_points=zero_points)
    return Planner(shape, "", "builtin", 1 << 60, beside(handle, tokenizer), level, costs=measured)


def carried_out(planner: Planner, goals: list[int], store: Store) -> Iterator[Outcome]:
    handle = planner.shape.handle
    windows: Windows = cut_windows(planner.shape.tokenizer, most=REPORT_WINDOWS)
    reference = HandlePredictor(handle, windows.tokens)
    assert planner.costs
    alone = replace(planner.costs, together=0.0)
    for goal in goals:
        (planned,) = replace(planner, goal=goal).mixture()
        (sums,) = replace(planner, goal=goal, costs=alone).mixture()
        with tempfile.TemporaryDirectory(dir=WORK) as folder:
            place = Path(folder, "out")
            quantize(handle, planned.spec, store, place, distribution=planned.distribution, agreed=True)
            small = open_model(str(place), store)
            kl = compare(reference, HandlePredictor(small, windows.tokens), windows)["kl"]
            size = sum(file.stat().st_size for file in place.iterdir())
        yield Outcome(planned, sums.candidate.kl or 0.0, float(str(kl)), size)


def spread_goals(planner: Planner, count: int, seed: int) -> list[int]:
    """Sizes between the ladder's smallest rung and its 8 bits, in an order drawn by lot."""
    sizes = [planned.candidate.size_bytes for planned in planner.ladder()]
    least, most = min(sizes), max(sizes)
    goals = [least + (most - least) * (i + 1) // (count + 1) for i in range(count)]
    random.Random(seed).shuffle(goals)
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--level", default="fast", choices=["fast", "balanced", "best"])
    parser.add_argument("--windows", type=int, default=0, help="that weights are measured on, where compress takes four")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    store = Store(WORK / "home")
    handle = open_model(args.model, store)
    planner = planner_of(handle, args.level, re.sub(r"\W+", "-", handle.name), args.windows)
    assert planner.costs
    print(f"all at once {planner.costs.together:.4f}, one by one {planner.costs.alone:.4f}", flush=True)
    rows, known, off = [], list[tuple[float, float]](), list[tuple[float, float, float]]()
    headers = [
        "MB",
        "size off by",
        "sum of single KLs",
        "predicted KL",
        "by those before",
        "measured KL",
        "KL off by",
        "by those before",
    ]
    for made in carried_out(planner, spread_goals(planner, args.plans, args.seed), store):
        said, size = made.planned.candidate.kl or 0.0, made.size_bytes / made.planned.candidate.size_bytes - 1
        again = expected(said, known)
        off.append((size, said / made.kl - 1, again / made.kl - 1))
        kls = [f"{kl:.4f}" for kl in (made.alone, said, again, made.kl)]
        rows.append([f"{made.size_bytes / 1e6:.1f}", f"{size:+.2%}", *kls, *(f"{far:+.0%}" for far in off[-1][1:])])
        print(rows[-1], flush=True)
        known.append((said, made.kl))
    show(headers, sorted(rows, key=lambda row: float(row[0])))
    sizes, *kinds = zip(*off, strict=True)
    print(f"\nsizes within {max(map(abs, sizes)):.2%}")
    for kind, far in zip(("as predicted", "by those before"), kinds, strict=True):
        inside = sum(abs(kl) <= WITHIN for kl in far)
        print(f"divergence within {WITHIN:.0%} {kind} in {inside} of {len(far)}, from {min(far):+.0%} to {max(far):+.0%}")


if __name__ == "__main__":
    main()
