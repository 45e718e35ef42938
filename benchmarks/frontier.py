"""SmolLM2 off its grid at sizes below BF16's: compressed by us, quantized by us alone, and llama.cpp's files of that size.

    python benchmarks/compress.py frontier [--points 60%,70%,75%,80%] [--level balanced] [--accuracy 100000]

All are judged on the windows of the report card, against the bf16 model: llama.cpp's files by its own logits. `compress` is
asked for less divergence than the others have, so that it goes on to learning where it must. Sizes are those of all files of a
model. 70 % below BF16 is 85 % below FP32, where accuracy is asked for. Run again, it goes on where it was stopped: what was made
is in the folder `frontier` of the benchmarks' cache, and made anew where that is deleted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from common import DEEPSEEK, PEER, WORK, run, show
from contenders import command, contenders
from planner import planner_of
from quality import accuracy, handbook, rightness, windows
from speed import PeerPredictor, subject

from deepseek_cli.bench.arms import started
from deepseek_cli.compress.plan import REPORT_BYTES
from deepseek_cli.evaluate import WINDOW, HandlePredictor, compare, cut_windows
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize.engine import REPORT_WINDOWS, quantize
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store

STEPS = {  # of each point, what is left out before rounding: as much as its size wants
    "60%": "",
    "70%": "",
    "75%": "vocabulary=25%",
    "80%": "vocabulary=50%",
}
BETTER = 0.97  # than the best of the others, in KL divergence: what compress is asked for
DENSE = "bf16.gguf"
FILES = (("Q4_K_M", ""), ("Q5_0", ""), ("Q4_0", "Q4_0"), ("IQ4_NL", "Q4_0"), ("Q3_K_M", "Q4_0"), ("Q2_K", "Q4_0"))  # embedding


@dataclass(frozen=True, slots=True)
class Made:
    """`card` is a report card, or a part of one."""

    name: str
    size_bytes: int
    card: dict[str, Any]
    folder: Path | None = None

    def row(self, point: str, goal: int) -> list[str]:
        lost = self.card.get("lost_probability")
        figures = [f"{self.card['kl']:.4f}", f"{self.card['agreement']:.1%}", f"{self.card['perplexity']:.2f}"]
        above = "" if self.size_bytes <= goal else " (above)"
        return [point, self.name, f"{self.size_bytes / 1e6:.1f}{above}", *figures, "-" if lost is None else f"{lost:.2%}"]


def once(name: str, make: Callable[[], Made | None]) -> Made | None:
    """What an earlier run made, or what is made now."""
    known = WORK / "frontier" / f"{name}.json"
    if not known.is_file():
        made = make()
        known.write_text(json.dumps(made and asdict(made), default=str))
    fields = json.loads(known.read_text())
    return fields and Made(**{**fields, "folder": fields["folder"] and Path(fields["folder"])})


def compressed(source: Path, point: str, level: str, most: float) -> Made:
    """Asked for a divergence of at most `most`; where that is not to be had, the closest."""
    place = WORK / "frontier" / f"ours-{point[:-1]}-{level}"
    steps = ("--steps", STEPS[point]) if STEPS[point] else ()
    options = ("--smaller", point, "--relative-to", "bf16", *steps, "--level", level, "--max-kld", most)
    said = json.loads(run(*DEEPSEEK, "compress", source, *options, "--yes", "--force", "-o", place, "--json", expect=(0, 1)).out)
    return Made(" ".join(("compress", *steps)), said["bytes"], said["report"], place)


def quantized(model: ModelHandle, goal: int, point: str, level: str, store: Store) -> Made | None:
    """As `quantize --to-size` does it, without zero points, with what was measured of weights kept between points.

    Where that is not so small, three bits throughout; None where these are not either.
    """
    planner = replace(planner_of(model, level, "smollm2-off-grid-plain", zero_points=False), goal=goal - REPORT_BYTES)
    three = (p for p in replace(planner, fewest_bits=3, costs=None).ladder() if p.candidate.scheme.startswith("int3"))
    found = planner.mixture() or [p for p in three if p.candidate.fits]
    if not found:
        return None
    place = WORK / "frontier" / f"quantized-{point[:-1]}-{level}"
    quantize(model, found[0].spec, store, place, distribution=found[0].distribution, force=True, agreed=True)
    cut = cut_windows(open_tokenizer(model.root), most=REPORT_WINDOWS)
    small = HandlePredictor(open_model(str(place), store), cut.tokens)
    card = compare(HandlePredictor(model, cut.tokens), small, cut)
    name = "quantize --to-size" if found[0].distribution else f"quantize --scheme {found[0].spec.scheme}"
    return Made(name, sum(file.stat().st_size for file in place.iterdir()), card, place)


def llama_files(model: ModelHandle) -> list[Made]:
    folder = WORK / f"{model.name}-peers"
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{kind}{embedding and f'-embedding-{embedding}'}".lower(): (kind, embedding) for kind, embedding in FILES}
    made = (once(name, partial(llama_file, model, folder / f"{name}.gguf", *types)) for name, types in files.items())
    found = [file for file in made if file]
    (folder / DENSE).unlink(missing_ok=True)
    return found


def llama_file(model: ModelHandle, path: Path, kind: str, embedding: str) -> Made:
    if not path.exists():
        dense = path.with_name(DENSE)
        if not dense.exists():
            run(*PEER, "convert", model.root, dense)
        run(*PEER, "quantize", dense, path, kind, *([embedding] if embedding else []))
    cut = cut_windows(open_tokenizer(model.root), most=REPORT_WINDOWS)
    peer = next(peer for peer in contenders(2) if peer.kind == "llama")
    settings = {"prompt_tokens": [WINDOW], "new_tokens": [8], "depths": [0], "context": WINDOW, "threads": 2, "seed": 0}
    with started(str(path), {**settings, "ref": str(path), "name": kind}, command(peer, {})) as arm:
        card = compare(HandlePredictor(model, cut.tokens), PeerPredictor(arm, cut.tokens), cut)
    return Made(f"llama.cpp {kind}" + (f", embedding {embedding}" if embedding else ""), path.stat().st_size, card)


def beside(files: list[Made], goal: int) -> Made:
    """The best of those that are small enough, or the smallest of all."""
    return min(
        (f for f in files if f.size_bytes <= goal), key=lambda f: f.card["kl"], default=min(files, key=lambda f: f.size_bytes)
    )


def frontier(points: list[str], level: str, tokens: int) -> None:
    source, store = subject(WORK), Store(WORK / "home")
    (WORK / "frontier").mkdir(parents=True, exist_ok=True)
    model = open_model(str(source), store)
    files, rows, judged = llama_files(model), [], list[Made]()
    for point in points:
        goal = int(model.parameters * 2 * (1 - float(point[:-1]) / 100))
        alone = once(f"quantized-{point}-{level}", partial(quantized, model, goal, point, level, store))
        others = [made for made in (alone, beside(files, goal)) if made]
        most = BETTER * min(made.card["kl"] for made in others)
        ours = once(f"ours-{point}-{level}", partial(compressed, source, point, level, most))
        rows += [made.row(point, goal) for made in (ours, *others) if made]
        judged += [made for made in (ours, alone) if made and "lost_probability" not in made.card]
        print(*rows[-3:], sep="\n", flush=True)
    show(["smaller", "", "MB", "KL", "agreement", "perplexity", "of tokens that are gone"], rows)
    if tokens:
        accuracies(model, judged, tokens, store)


def accuracies(model: ModelHandle, judged: list[Made], tokens: int, store: Store) -> None:
    """Next-token accuracy over other text, of those that have all tokens."""
    more = windows(model, handbook()[200_000 : 200_000 + 6 * tokens], tokens // 512)
    right = rightness(HandlePredictor(model, more), more)
    rows = []
    for made in judged:
        found = accuracy(right, rightness(HandlePredictor(open_model(str(made.folder), store), more), more))
        loss = 1 - found["accuracy"] / found["reference_accuracy"]
        rows.append(
            [made.name, f"{made.size_bytes / 1e6:.1f}", f"{loss:.2%}", f"{found['accuracy_loss_most']:.2%}", found["tokens"]]
        )
    show(["", "MB", "accuracy loss", "at most", "tokens"], rows)
