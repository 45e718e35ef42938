"""What is left of a model's predictions when parts of it go, or when it has to be so small: one table.

`experts` takes half of the embedded model's experts: as `compress` chooses them, and at random beside it. KL divergence over the
windows of the report card: those experts dropped; what stays fitted, in each of several ways; and the last of these recovered.
Below the table stand the spread of what was random, and what the others are of its mean.

`depth` drops a fifth of SmolLM2's layers, and lets the others learn; run again, it goes on where it was stopped. More text comes
with `--corpus build/nano/train.jsonl /usr/share/doc/anarchism/html`: documents that `python -m nano.corpus` fetches (the report
card's second text is cut from those it holds out), and essays (`apt-get install anarchism`).
`zeros` prunes a model to 2:4 and to half, the others making good for what went, and beside it the smallest alone.
`frontier`: see frontier.py.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from common import PACKAGE, WORK, show
from frontier import frontier
from quality import pages

from deepseek_cli.compress import recover, sparsity
from deepseek_cli.compress.experts import Ranks, dropped
from deepseek_cli.compress.plan import Steps
from deepseek_cli.compress.refit import fit
from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.evaluate import HandlePredictor, compare, cut_windows, evaluate_handle
from deepseek_cli.handle import open_model
from deepseek_cli.refs import TensorRef
from deepseek_cli.reporter import SILENT, Silent
from deepseek_cli.store import Store
from deepseek_cli.tensors import dense

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


@dataclass(frozen=True)
class Told(Silent):
    """Prints what is noted, with the minutes by the clock and the processors' since it was made."""

    clock: float
    processors: float

    def note(self, message: str, **facts: object) -> None:
        minutes = (time.monotonic() - self.clock) / 60, (time.process_time() - self.processors) / 60
        print(f"{minutes[0]:5.1f} min, {minutes[1]:5.1f} of processors: {message.format(**facts)}", flush=True)


def plain(corpora: list[str], folder: Path) -> str:
    """All documents, mixed, in a file as `--calibration` takes it; "builtin" where there are none."""
    if not corpora:
        return "builtin"
    text, documents = folder / "corpus.txt", [document for corpus in corpora for document in documents_of(Path(corpus))]
    random.Random(0).shuffle(documents)
    text.write_text("\n\n".join(documents), encoding="utf-8")
    return str(text)


def documents_of(corpus: Path) -> list[str]:
    """Of a file that nano/corpus.py built, or the web pages of a folder."""
    if corpus.is_dir():
        return pages(corpus)
    return [json.loads(line)["text"] for line in corpus.read_text(encoding="utf-8").splitlines()]


def depth(folder: Path, model: str, share: str, seeds: int, time_given: str, corpora: list[str]) -> None:
    original = open_model(model, Store(folder))
    ranking = Steps(original, f"depth={share}", "builtin", folder, SILENT, folder)
    ((_, step),) = ranking.steps
    known = folder / f"ranks-{original.digest[:12]}-{share}.json"
    if not known.is_file():
        ranks = step.rank(ranking.shape, ranking.context)
        step.cut(ranking.shape, ranks, share, ranking.context)
        known.write_text(json.dumps(ranks.gone))
    gone = json.loads(known.read_text())
    shape = step.cut(ranking.shape, SimpleNamespace(first=lambda count: gone[:count]), share, ranking.context)
    windows = cut_windows(ranking.shape.tokenizer)
    reference = HandlePredictor(original, windows.tokens)

    def kls(shape: Shape) -> dict[str, float]:
        card: Any = compare(reference, HandlePredictor(shape.handle, windows.tokens), windows)
        return {"all": card["kl"], **{text["text"]: text["kl"] for text in card["texts"]}}

    print("without layers", *sorted(decision["layer"] for decision in shape.decisions))
    before, rows = kls(shape), []
    for seed in range(seeds):
        told = Told(time.monotonic(), time.process_time())
        context = replace(ranking.context, source=plain(corpora, folder), seed=seed, reporter=told)
        after = kls(recover.cut(shape, None, time_given, context))
        rows += [[seed, text, f"{kl:.4f}", f"{after[text]:.4f}", f"{1 - after[text] / kl:.1%}"] for text, kl in before.items()]
    show(["seed", "text", "KL", f"after {time_given}", "recovered"], rows)


def zeros(folder: Path, model: str) -> None:
    original, rows = open_model(model, Store(folder)), []
    for text in ("2:4", "50%"):
        ((_, ours),) = Steps(original, f"sparsity={text}", "builtin", folder / text, SILENT).plans()
        smallest = {name: _smallest(original.stored[name], sparsity.parse_pattern(text)) for name in sparsity.names_in(ours)}
        alone = ours.with_model({}, {**original.stored, **smallest})
        windows = cut_windows(ours.tokenizer, most=8)
        rows.append([text, *(f"{evaluate_handle(original, shape.handle, windows)['kl']:.4f}" for shape in (ours, alone))])
    show(["zeros", "KL", "KL of the smallest alone"], rows)


def _smallest(ref: TensorRef, pattern: sparsity.Pattern) -> TensorRef:
    """Inputs that do not depend on each other cannot make good for any other."""
    return replace(ref, read=lambda: sparsity.pruned(dense(ref.read()), torch.eye(ref.shape[1]), pattern))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["experts", "depth", "zeros", "frontier"])
    parser.add_argument("--share", help="by default 50%% of the experts, 20%% of the layers")
    parser.add_argument("--seeds", type=int, help="by default 3, of depth 1")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS), help="to make good for experts")
    parser.add_argument("--time", help="of recovery, none if empty: by default 10m, of depth 60m; 60m+lora16 learns by adapters")
    parser.add_argument("--model", default=PACKAGE, help="whose layers are dropped, or weights pruned")
    parser.add_argument("--corpus", nargs="*", default=[], help="for layers to learn from: train.jsonl files, folders of pages")
    parser.add_argument("--points", default="60%,70%,75%,80%", help="of the frontier: below BF16")
    parser.add_argument("--level", default="balanced", help="of the frontier")
    parser.add_argument("--accuracy", type=int, default=0, help="tokens that the frontier's accuracy is measured on")
    args = parser.parse_args()
    if args.what == "frontier":
        return frontier(args.points.split(","), args.level, args.accuracy)
    if args.what == "depth":
        (WORK / "recover").mkdir(parents=True, exist_ok=True)
        return depth(WORK / "recover", args.model, args.share or "20%", args.seeds or 1, args.time or "60m", args.corpus)
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "zeros":
            return zeros(Path(folder), args.model)
        experts(Path(folder), args.share or "50%", args.seeds or 3, "10m" if args.time is None else args.time, args.ways)


if __name__ == "__main__":
    main()
