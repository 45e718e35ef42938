"""Recipes around the best plan, tried with `tune`'s study in the time that is left; none takes more bytes than the plan.

What is varied is how weights are rounded, and how much the plan's costs of each kind of weight are trusted: those were measured
one weight at a time, and what they add up to is only nearly so. Trials are judged on windows that no report card looks at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deepseek_cli.compress.candidates import Planned, Planner
from deepseek_cli.compress.costs import Costs
from deepseek_cli.compress.quality import reference
from deepseek_cli.errors import MissingExtra, UsageError
from deepseek_cli.evaluate import Windows, cut_windows
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize.algorithms import LEVELS
from deepseek_cli.quantize.engine import REPORT_WINDOWS
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store
from deepseek_cli.tune.front import Scales
from deepseek_cli.tune.recipe import Recipe
from deepseek_cli.tune.space import Choice, Parameter, Range, Value
from deepseek_cli.tune.study import Study, require_extra
from deepseek_cli.tune.trial import parts, run_trial

WORTH = 3.0  # times an attempt takes, that must be left
MOST = 40  # trials
OBJECTIVES = ("kl",)
TRUST = "cost of "  # begins the name of a kind of weight's factor
DOUBT = 3.0  # by which a cost may be wrong
ALGORITHMS = ("imatrix", "awq", "gptq", "gptaq", "refine")
TOKENS = (4_096, 16_384, 65_536)
SEEDS = (0, 1, 2)

Space = Mapping[Parameter, Value]  # with the value that the plan itself has


def search(
    original: ModelHandle,
    source: ModelHandle,
    planner: Planner,
    best: Planned,
    texts: Sequence[Path],
    store: Store,
    work: Path,
    seconds: float,
    reporter: Reporter,
) -> Planned | None:
    """The plan of the best trial; None where none beats the plan itself, or nothing can be tried.

    `source` is what is rounded. Trials are kept in the folder `work`, and an interrupted search goes on.
    """
    space, windows, begun = around(planner, best), between(source, texts), time.monotonic()
    if not space or not len(windows.tokens):
        return None
    try:
        require_extra()
    except MissingExtra:
        reporter.note("Time is left to search for a better recipe, which needs: pip install 'deepseek-cli[tune]'")
        return None
    reporter.note("For {minutes:.1f} minutes, recipes around the best plan are tried.", minutes=seconds / 60)
    study, start = _open(source, space, windows, work / f"search-{best.candidate.label}.journal")
    measured_on = parts(partial(reference, original, shape=planner.shape), windows)

    def told(recipe: Recipe) -> tuple[QuantizeSpec, Mapping[str, Any] | None]:
        plan = planned(planner, best, recipe)
        return plan.spec, plan.distribution

    longest = 0.0
    while time.monotonic() - begun + longest < seconds and (asked := study.ask(tuple(space), _arms(space), MOST, 0)):
        at, known = time.monotonic(), study.trials()
        state, facts = run_trial(source, measured_on, asked[0].params, known, OBJECTIVES, store, study.file, True, told)
        study.tell(asked[0], state, facts)
        longest = max(longest, time.monotonic() - at)
        reporter.progress("search", len(study.trials()), MOST)
    done = [trial for trial in study.trials() if trial.state == "complete"]
    winner = min(done, key=lambda trial: float(trial.facts["kl"]), default=None)
    if winner is None or winner.recipe == start:
        return None
    found = planned(planner, best, winner.recipe)
    return replace(found, candidate=replace(found.candidate, level=f"tuned-{winner.number}", kl=winner.facts["kl"]))


def around(planner: Planner, best: Planned) -> Space:
    """What may be tried, with what the plan itself has."""
    space: dict[Parameter, Value] = {}
    if best.spec.scheme and best.spec.scheme.startswith("int4"):
        level = LEVELS[best.spec.level]
        space[Choice("algorithm", ALGORITHMS)] = level.algorithm
        space[Choice("tokens", TOKENS)] = level.tokens
        space[Choice("seed", SEEDS)] = 0
    if best.distribution and planner.costs:
        kinds = dict.fromkeys(kind_of(unit) for unit in planner.costs.plan.units)
        space |= {Range(f"{TRUST}{kind}", 1 / DOUBT, DOUBT, log=True, whole=False): 1.0 for kind in kinds}
    return space


def kind_of(unit: Sequence[str]) -> str:
    return unit[0].rpartition(".")[2]


def planned(planner: Planner, best: Planned, recipe: Recipe) -> Planned:
    """The plan of a recipe. Raises UsageError where no distribution is that small."""
    rounding: dict[str, Any] = {name: value for name, value in recipe.items() if not name.startswith(TRUST)}
    if rounding.get("algorithm") == LEVELS[best.spec.level].algorithm:
        rounding.pop("algorithm")  # a level does it to fewer weights than it is done to by name
    spec = replace(best.spec, **rounding)
    factors = {name.removeprefix(TRUST): float(value) for name, value in recipe.items() if name.startswith(TRUST)}
    if not factors or planner.costs is None:
        return replace(best, spec=spec)
    found = replace(planner, costs=_trusting(planner.costs, factors)).mixture(best.budget, best.spec.level)
    if not found:
        raise UsageError("No distribution of schemes is that small.", hint="Allow more bytes.")
    return replace(found[0], spec=spec)


def _trusting(costs: Costs, factors: Mapping[str, float]) -> Costs:
    rows = zip(costs.plan.units, costs.options, strict=True)
    options = (tuple(replace(o, kl=o.kl * factors[kind_of(unit)]) for o in row) for unit, row in rows)
    return replace(costs, options=tuple(options))


def between(source: ModelHandle, texts: Sequence[Path]) -> Windows:
    """Of each text, windows that lie between those of the report card."""
    cut, start, tokens, found = cut_windows(open_tokenizer(source.root), texts, most=2 * REPORT_WINDOWS - 1), 0, [], []
    for text in cut.texts:
        rows = cut.tokens[start : start + text.windows][1::2]
        if len(rows):
            tokens.append(rows)
            found.append(replace(text, windows=len(rows)))
        start += text.windows
    return Windows(torch.cat(tokens) if tokens else cut.tokens[:0], tuple(found))


def _open(source: ModelHandle, space: Space, windows: Windows, file: Path) -> tuple[Study, Recipe]:
    """The study, which tries the plan itself first, and the plan as a recipe."""
    facts = {
        "model": source.digest,
        "space": {parameter.name: parameter.record() for parameter in space},
        "objectives": list(OBJECTIVES),
        "windows": len(windows.tokens),
        "text_sha256": [text.sha256 for text in windows.texts],
    }
    study = Study.open(file, facts, Scales(OBJECTIVES, {}))
    start = {parameter.name: value for parameter, value in space.items()}
    if not study.trials():
        study.study.enqueue_trial(start, user_attrs={"sampler": "tpe"})
    return study, start


def _arms(space: Space) -> tuple[str, ...]:
    from deepseek_cli.tune.samplers import arms_for

    return arms_for(tuple(space))
