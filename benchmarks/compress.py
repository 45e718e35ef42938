"""What is left of a model's predictions when parts of it go: one table.

`experts` takes half of the embedded model's experts: as `compress` chooses them, and at random beside it. KL divergence over the
windows of the report card: those experts dropped; what stays fitted, in each of several ways; and the last of these recovered.
Below the table stand the spread of what was random, and what the others are of its mean.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from common import show

from deepseek_cli.compress import recover
from deepseek_cli.compress.experts import Ranks, dropped
from deepseek_cli.compress.plan import Steps
from deepseek_cli.compress.refit import fit
from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.evaluate import cut_windows, evaluate_handle
from deepseek_cli.handle import open_model
from deepseek_cli.reporter import SILENT
from deepseek_cli.store import Store

WAYS = {  # of making good for what went
    "refit": ("drop",),
    "merge": ("merge",),
    "better of both": ("drop", "merge"),
    "and learn": ("drop", "merge", "learn"),
}


def experts(folder: Path, share: str, seeds: int, time: str, names: list[str]) -> None:
    nano = open_model("nano", Store(folder))
    ranking = Steps(nano, f"experts={share}", "builtin", folder, SILENT)
    ((_, step),) = ranking.steps
    chosen = step.rank(ranking.shape, ranking.context)
    windows = cut_windows(ranking.shape.tokenizer, most=8)

    def kl(shape: Shape) -> float:
        return float(str(evaluate_handle(nano, shape.handle, windows)["kl"]))

    bare, kept = dropped(ranking.shape, chosen, share)
    shapes = [bare, *(fitted(ranking.shape, bare, kept, ranking.context, WAYS[way]) for way in names)]
    if time:
        shapes.append(again(shapes[-1], ranking.context, time))
    rows = {"chosen": [kl(shape) for shape in shapes]}
    for seed in range(seeds):
        draws = random.Random(seed)
        drawn = {name: draws.sample(sorted(order), len(order)) for name, order in chosen.items()}
        rows[f"random {seed}"] = [kl(dropped(ranking.shape, drawn, share)[0])]
    drops = [values[0] for name, values in rows.items() if name != "chosen"]
    heads = ["", "drop", *names, *([f"after {time}"] if time else [])]
    cells = {name: [f"{value:.4f}" for value in values] for name, values in rows.items()}
    show(heads, [[name, *values, *[""] * (len(heads) - 1 - len(values))] for name, values in cells.items()])
    if len(drops) > 1:
        mean = statistics.mean(drops)
        print(f"random: mean {mean:.4f}, standard deviation {statistics.stdev(drops):.4f}")
        print(
            "of that mean:",
            ", ".join(f"{name} {value / mean:.2f}" for name, value in zip(heads[1:], rows["chosen"], strict=True)),
        )


def fitted(whole: Shape, bare: Shape, kept: Ranks, context: Context, ways: tuple[str, ...]) -> Shape:
    tensors = {**bare.handle.tensors, **fit(whole, bare, kept, context, ways)}
    return replace(bare, handle=replace(bare.handle, tensors=tensors))


def again(shape: Shape, context: Context, time: str) -> Shape:
    """The same, recovered."""
    with tempfile.TemporaryDirectory(dir=context.folder) as folder:
        small = recover.cut(shape, None, time, replace(context, folder=Path(folder)))
        for ref in small.handle.stored.values():
            ref.read()
    return small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["experts"])
    parser.add_argument("--share", default="50%")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--time", default="10m", help="of recovery; empty for none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        experts(Path(folder), args.share, args.seeds, args.time, args.ways)


if __name__ == "__main__":
    main()
