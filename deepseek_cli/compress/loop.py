"""Carry out the most promising candidate, measure it, correct the plan by what was measured, until all goals are met."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepseek_cli.compress.candidates import Planned, Planner
from deepseek_cli.compress.plan import Candidate
from deepseek_cli.compress.spec import GATE, CompressSpec
from deepseek_cli.errors import MemoryShort
from deepseek_cli.quantize.engine import Quantized
from deepseek_cli.quantize.method import LONG_SECONDS
from deepseek_cli.reporter import Reporter

MOST = 4  # candidates that are carried out, beside those that came out above the goal
SPARE = 512  # bytes by which manifests of two mixtures of one size may differ
SHAPES = 3  # that fit and are measured, from the largest on: the smaller the shape, the more bits fit


@dataclass(frozen=True, slots=True)
class Attempt:
    planned: Planned
    result: Quantized
    report: Mapping[str, Any]
    folder_bytes: int

    def misses(self, goal: int, spec: CompressSpec) -> tuple[bool, bool, float]:
        """By which attempts are compared: over the size, over a goal of quality, and by how much the predictions changed."""
        return self.folder_bytes > goal, misses_quality(self.report, spec), self.report.get("kl", 0.0)

    @property
    def candidate(self) -> Candidate:
        """What was predicted, with what was measured."""
        return replace(self.planned.candidate, measured_kl=self.report.get("kl"), measured_bytes=self.folder_bytes)


def misses_quality(report: Mapping[str, Any], spec: CompressSpec) -> bool:
    """Whether a goal of quality is not met, or not known to be."""
    measured = {"kl": report.get("kl"), **report.get(GATE, {})}
    goals = ((spec.max_kld, measured["kl"]), (spec.max_accuracy_loss, measured.get("accuracy_loss_most")))
    return any(most is not None and (value is None or value > most) for most, value in goals)


def improve(
    planners: Sequence[Planner],
    goal: int,
    spec: CompressSpec,
    attempt: Callable[[Planned], Attempt],
    reporter: Reporter,
    started: float,
) -> tuple[Attempt, list[Attempt]]:
    """The best attempt, and all of them in their order. Raises MemoryShort where there is too little for any."""
    waiting = in_order([p for planner in planners for p in (*planner.mixture(), *planner.ladder())])
    waiting += [p for level in spec.levels[1:] for planner in planners for p in planner.mixture(level=level)]
    done: list[Attempt] = []
    while waiting and sum(a.folder_bytes <= goal for a in done) < MOST:
        planned = waiting.pop(0)
        if done and not _in_time(planned, spec, started, reporter):
            continue
        if done and not _worth_it(planned, done, goal, spec):
            continue
        tell(planned.candidate, goal, reporter)
        try:
            done.append(attempt(planned))
        except MemoryShort as error:  # of learning; what was made without it stays
            if not done:
                raise
            reporter.note(error.message, **error.facts)
            continue
        _, missed, _ = done[-1].misses(goal, spec)
        over = done[-1].folder_bytes - goal
        if over <= 0 and not missed:
            break
        if over > 0 and planned.candidate.fits and planned.distribution:
            planner = next(p for p in planners if p.shape is planned.shape)
            waiting = _within(planner, planned, planned.candidate.size_bytes - planner.beside - over - SPARE, waiting)
        elif over > 0 and not planned.candidate.fits:
            break  # the smallest there is
    return min(done, key=lambda a: a.misses(goal, spec)), done


def _within(planner: Planner, planned: Planned, budget: int, waiting: Sequence[Planned]) -> list[Planned]:
    """What waits, once this mixture was over its goal: it again with fewer bytes, and so those that more work is to make."""
    further = [p for p in waiting if p.shape is planned.shape and p.distribution]
    others = [p for p in waiting if p.shape is not planned.shape or not p.distribution]
    again = (planner.mixture(budget, p.candidate.level) for p in (planned, *further))
    first, *more = again
    return [*first, *others, *(p for found in more for p in found)]


def in_order(planned: Sequence[Planned]) -> list[Planned]:
    """Those that fit by predicted divergence, then, where none does, the smallest of all; unknown divergence goes by size."""
    fit = [p for p in planned if p.candidate.fits]
    if not fit:
        return [min(planned, key=lambda p: p.candidate.size_bytes)]
    known = all(p.candidate.kl is not None for p in fit)
    return sorted(fit, key=lambda p: (p.candidate.kl or 0.0) if known else -p.candidate.size_bytes)


def _in_time(planned: Planned, spec: CompressSpec, started: float, reporter: Reporter) -> bool:
    """Whether there is time for it; where there is none for a level's work, that is said."""
    left, needed = (spec.seconds or LONG_SECONDS) - (time.monotonic() - started), planned.candidate.seconds or 0.0
    if needed > left and planned.candidate.level != spec.level:
        reporter.note(
            "Level {level} would take about {minutes:.0f} minutes, and {left:.0f} are left: left out.",
            level=planned.candidate.level,
            minutes=needed / 60,
            left=max(left, 0.0) / 60,
        )
    return needed <= left


def _worth_it(planned: Planned, done: Sequence[Attempt], goal: int, spec: CompressSpec) -> bool:
    """Whether its prediction, corrected by what predictions came to so far, beats the best by then."""
    best = min(done, key=lambda a: a.misses(goal, spec))
    if best.folder_bytes > goal or planned.candidate.level != best.planned.candidate.level:
        return True
    return planned.candidate.kl is None or expected(planned.candidate.kl, predictions(done)) < best.report["kl"]


def predictions(done: Sequence[Attempt]) -> list[tuple[float, float]]:
    """The divergences that were predicted, and those that were measured."""
    return [(a.planned.candidate.kl, a.report["kl"]) for a in done if a.planned.candidate.kl and a.report.get("kl")]


def expected(kl: float, known: Sequence[tuple[float, float]]) -> float:
    """A predicted divergence times what others came to, those near it before all; that it is right as it is counts as one."""
    shares = [min(predicted, kl) / max(predicted, kl) for predicted, _ in known]
    logs = (share * math.log(measured / predicted) for share, (predicted, measured) in zip(shares, known, strict=True))
    return kl * math.exp(math.fsum(logs) / (1 + math.fsum(shares)))


def tell(chosen: Candidate, goal: int, reporter: Reporter) -> None:
    facts = {"goal": round(goal / 1e6, 1), "scheme": chosen.scheme, "embeddings": chosen.embeddings}
    if chosen.steps:
        reporter.note("Goal {goal} MB: {steps}, then {scheme}, embeddings {embeddings}.", **facts, steps=chosen.steps)
    else:
        reporter.note("Goal {goal} MB: {scheme}, embeddings {embeddings}.", **facts)
