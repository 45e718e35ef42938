"""One trial: quantize into a folder that passes, measure on some windows, then, unless they decide, on the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.errors import UsageError
from deepseek_cli.evaluate import HandlePredictor, Text, Windows, compare
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.profile.estimate import read_bytes
from deepseek_cli.profile.sketch import sketch_of
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.store import Store, passing
from deepseek_cli.tune.front import State, Trial
from deepseek_cli.tune.recipe import Recipe, quantize_spec

EARLY = 4  # of so many windows one is among the first
MARGIN = 1.1  # by which the first windows' divergence must exceed that of a trial that is no worse otherwise
TOGETHER = ("kl", "agreement", "accuracy", "reference_accuracy")  # means over tokens
KEPT = (*TOGETHER, "first_kl", "size", "speed")  # what a trial with a known recipe takes from it
Planned = tuple[QuantizeSpec, Mapping[str, Any] | None]  # what `quantize` is told, and the distribution where there is one


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the windows, and the reference on them."""

    windows: Windows
    reference: HandlePredictor


def parts(predict: Callable[[Tensor], HandlePredictor], windows: Windows) -> list[Part]:
    """The first windows, from every text, and all others; where there are few, only one part. `predict` is the reference."""
    early, late, start = [], [], 0
    for text in windows.texts:
        count = -(-text.windows // EARLY) if text.windows > 1 else 0
        rows = list(range(start, start + text.windows))
        early += [(row, text) for row in rows[:count]]
        late += [(row, text) for row in rows[count:]]
        start += text.windows
    chosen = [_some(windows, rows) for rows in (early, late) if rows]
    return [Part(some, predict(some.tokens)) for some in chosen]


def _some(windows: Windows, rows: Sequence[tuple[int, Text]]) -> Windows:
    counts = {text: sum(other == text for _, other in rows) for _, text in rows}
    tokens = windows.tokens[torch.tensor([row for row, _ in rows])]
    return Windows(tokens, tuple(replace(text, windows=count) for text, count in counts.items()))


def plain(recipe: Recipe) -> Planned:
    """A recipe is all that there is to say."""
    return quantize_spec(recipe), None


def run_trial(
    handle: ModelHandle,
    measured_on: Sequence[Part],
    recipe: Recipe,
    known: Sequence[Trial],
    objectives: Sequence[str],
    store: Store,
    beside: Path,
    prune: bool,
    plan: Callable[[Recipe], Planned] = plain,
) -> tuple[State, dict[str, Any]]:
    """How it ended and what was measured; the model that it made is gone. What was tried before is not done again."""
    for trial in known:
        if trial.recipe == recipe and trial.state in ("complete", "pruned"):
            return trial.state, {**{name: trial.facts[name] for name in KEPT if name in trial.facts}, "same_as": trial.number}
    try:
        spec, distribution = plan(recipe)
        with passing(beside) as folder:
            made = replace(spec, report=False)
            quantize(handle, made, store, folder / "model", distribution=distribution, agreed=True)
            candidate = open_model(str(folder / "model"), store)
            sketch = sketch_of(candidate)
            facts = {"size": candidate.size_bytes, "speed": read_bytes(sketch, sketch.weights, batch=1)}
            worse = _worse(known, facts, objectives) if prune else lambda kl: False
            return measure(candidate, measured_on, facts, worse)
    except UsageError as error:  # of this recipe: what is wrong with all of them was said before
        return "failed", {"reason": str(error)}


def _worse(known: Sequence[Trial], facts: dict[str, Any], objectives: Sequence[str]) -> Callable[[float], bool]:
    """Whether a divergence on the first windows leaves nothing to hope for beside what is known."""
    others = [name for name in objectives if name != "kl"]
    rivals = [t for t in known if t.state == "complete" and all(t.facts[name] <= facts[name] for name in others)]
    best = min((t.facts["first_kl"] for t in rivals), default=float("inf"))
    return lambda kl: kl > MARGIN * best


def measure(
    candidate: ModelHandle, measured_on: Sequence[Part], facts: dict[str, Any], worse: Callable[[float], bool]
) -> tuple[State, dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    for part in measured_on:
        reports.append(compare(part.reference, HandlePredictor(candidate, part.windows.tokens), part.windows))
        if len(reports) < len(measured_on) and worse(reports[0]["kl"]):
            return "pruned", {**facts, "first_kl": reports[0]["kl"]}
    tokens = sum(report["tokens"] for report in reports)
    means = {name: sum(report[name] * report["tokens"] for report in reports) / tokens for name in TOGETHER}
    return "complete", {**facts, **means, "first_kl": reports[0]["kl"]}
