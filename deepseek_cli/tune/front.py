"""What is not beaten in everything, and how much of what could be reached that covers.

Objectives are compared by ratios: each lies on a logarithmic scale between a best and a worst value, 0…1, from the model alone,
so that studies of one model can be compared by their hypervolumes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepseek_cli.tune.recipe import Recipe

Point = tuple[float, ...]
State = Literal["complete", "pruned", "failed", "interrupted", "running"]
LEAST_KL, MOST_KL = 1e-4, 10.0
LEAST_SHARE = 1 / 16  # of the source's bytes


@dataclass(frozen=True, slots=True)
class Trial:
    """`point` is each objective's place on its scale; None where the trial did not come so far."""

    number: int
    state: State
    sampler: str
    recipe: Recipe
    point: Point | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scales:
    """`worst` of size and speed is what the source takes."""

    objectives: tuple[str, ...]
    worst: Mapping[str, float]

    def point(self, values: Mapping[str, float]) -> Point:
        return tuple(self._place(name, values[name]) for name in self.objectives)

    def _place(self, name: str, value: float) -> float:
        best, worst = (LEAST_KL, MOST_KL) if name == "kl" else (self.worst[name] * LEAST_SHARE, self.worst[name])
        return min(max(math.log(max(value, best) / best) / math.log(worst / best), 0.0), 1.0)


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is nowhere worse than `b`, and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def pareto_front(trials: Sequence[Trial], objectives: Sequence[str]) -> list[Trial]:
    """The trials that none dominates, of equals the first, by their first objective. As measured, since scales end somewhere."""
    values = {t.number: tuple(t.facts[name] for name in objectives) for t in trials if t.point is not None}
    first = {values[t.number]: t for t in reversed(trials) if t.number in values}
    best = [t for point, t in first.items() if not any(dominates(other, point) for other in first)]
    return sorted(best, key=lambda t: values[t.number])


def hypervolume(points: Sequence[Point]) -> float:
    """How much of the unit cube lies behind `points`, by slices along the last objective."""
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return 1 - min(points)[0]
    ordered = sorted(points, key=lambda p: p[-1])
    ends = [p[-1] for p in ordered[1:]] + [1.0]
    return sum(
        (end - point[-1]) * hypervolume([p[:-1] for p in ordered[: i + 1]])
        for i, (point, end) in enumerate(zip(ordered, ends, strict=True))
        if end > point[-1]
    )


def gains(trials: Sequence[Trial]) -> dict[int, float]:
    """By number, how much each trial added to the hypervolume of those before it."""
    known: list[Point] = []
    found, before = {}, 0.0
    for trial in trials:
        if trial.point is not None:
            if not any(dominates(p, trial.point) or p == trial.point for p in known):
                known = [p for p in known if not dominates(trial.point, p)] + [trial.point]
            after = hypervolume(known)
            found[trial.number], before = after - before, after
    return found
