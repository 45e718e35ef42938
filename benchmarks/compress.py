"""What is left of a model's predictions when parts of it go, or when it has to be so small: one table.

`experts` drops half of the embedded model's experts: as `compress` ranks them, and at random beside it, each also after
recovery. KL divergence over the windows of the report card. `frontier` see frontier.py.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from dataclasses import replace
from pathlib import Path

from common import show
from frontier import frontier

from deepseek_cli.compress import recover
from deepseek_cli.compress.experts import cut
from deepseek_cli.compress.plan import Steps
from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.evaluate import cut_windows, evaluate_handle
from deepseek_cli.handle import open_model
from deepseek_cli.reporter import SILENT
from deepseek_cli.store import Store


def experts(folder: Path, share: str, seeds: int, time: str) -> None:
    nano = open_model("nano", Store(folder))
    ranking = Steps(nano, f"experts={share}", "builtin", folder, SILENT)
    ((_, step),) = ranking.steps
    ranks = step.rank(ranking.shape, ranking.context)
    orders = {"ranked": ranks}
    for seed in range(seeds):
        draws = random.Random(seed)
        orders[f"random {seed}"] = {name: draws.sample(order, len(order)) for name, order in ranks.items()}
    shapes = {name: cut(ranking.shape, order, share, ranking.context) for name, order in orders.items()}
    windows = cut_windows(ranking.shape.tokenizer, most=8)

    def kl(shape: Shape) -> str:
        return f"{evaluate_handle(nano, shape.handle, windows)['kl']:.4f}"

    rows = [[name, kl(shape), kl(again(shape, ranking.context, time))] for name, shape in shapes.items()]
    show(["", "KL", f"after {time}"], rows)


def again(shape: Shape, context: Context, time: str) -> Shape:
    """The same, recovered."""
    with tempfile.TemporaryDirectory(dir=context.folder) as folder:
        small = recover.cut(shape, None, time, replace(context, folder=Path(folder)))
        for ref in small.handle.stored.values():
            ref.read()
    return small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["experts", "frontier"])
    parser.add_argument("--share", default="50%")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--time", default="2m", help="of recovery, for each")
    parser.add_argument("--points", default="60%,70%,75%,80%", help="of the frontier: below BF16")
    parser.add_argument("--level", default="balanced", help="of the frontier")
    parser.add_argument("--accuracy", type=int, default=0, help="tokens that the frontier's accuracy is measured on")
    args = parser.parse_args()
    if args.what == "frontier":
        return frontier(args.points.split(","), args.level, args.accuracy)
    with tempfile.TemporaryDirectory() as folder:
        experts(Path(folder), args.share, args.seeds, args.time)


if __name__ == "__main__":
    main()
