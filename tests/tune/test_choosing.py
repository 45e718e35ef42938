"""Who proposes next, what is on a front, and how much it covers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from deepseek_cli.tune.bandit import FIRST, LEAST, next_arm
from deepseek_cli.tune.front import Point, Scales, Trial, dominates, gains, hypervolume, pareto_front

ARMS = ("tpe", "cmaes", "nsga2")


def drawn(gain_of: Callable[[str, int], float], count: int) -> list[str]:
    """Who was chosen, where a trial's gain is given."""
    trials: list[Trial] = []
    gained: dict[int, float] = {}
    for number in range(count):
        arm = next_arm(ARMS, trials, gained)
        trials.append(Trial(number, "complete", arm, {}))
        gained[number] = gain_of(arm, number)
    return [trial.sampler for trial in trials]


def test_trials_shift_to_who_gains_more() -> None:
    chosen = Counter(drawn(lambda arm, _: 0.1 if arm == "cmaes" else 0.001, 100))
    assert chosen["cmaes"] > 60


def test_nobody_starves() -> None:
    chosen = drawn(lambda arm, _: float(arm == "tpe"), 120)
    late = Counter(chosen[60:])
    assert all(late[arm] >= 0.8 * LEAST * 60 for arm in ARMS)


def test_each_begins_with_the_same_number_of_trials() -> None:
    assert Counter(drawn(lambda arm, _: float(arm == "tpe"), FIRST * len(ARMS))) == dict.fromkeys(ARMS, FIRST)


def test_trials_shift_again_when_another_comes_to_gain() -> None:
    chosen = drawn(lambda arm, number: 0.1 if arm == ("tpe" if number < 80 else "nsga2") else 0.0, 200)
    assert Counter(chosen[40:80]).most_common(1)[0][0] == "tpe"
    assert Counter(chosen[150:]).most_common(1)[0][0] == "nsga2"


def test_who_gains_nothing_at_all_shares_evenly() -> None:
    chosen = Counter(drawn(lambda arm, number: 0.0, 90))
    assert max(chosen.values()) - min(chosen.values()) <= 3


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_hypervolume_is_the_share_of_random_points_behind_the_front(dimensions: int) -> None:
    draw = random.Random(dimensions)
    points: list[Point] = [tuple(draw.random() for _ in range(dimensions)) for _ in range(6)]
    samples = [tuple(draw.random() for _ in range(dimensions)) for _ in range(20_000)]
    behind = sum(any(all(p <= s for p, s in zip(point, sample, strict=True)) for point in points) for sample in samples)
    assert hypervolume(points) == pytest.approx(behind / len(samples), abs=0.015)


def test_gains_add_up_to_the_hypervolume() -> None:
    draw = random.Random(0)
    trials = [Trial(i, "complete", "tpe", {}, (draw.random(), draw.random(), draw.random())) for i in range(20)]
    assert sum(gains(trials).values()) == pytest.approx(hypervolume([t.point for t in trials if t.point]))


def test_on_the_front_is_exactly_what_none_dominates() -> None:
    draw = random.Random(1)
    scales = Scales(("size", "kl"), {"size": 100.0})
    figures = [{"size": draw.randint(5, 20), "kl": draw.choice([0.1, 0.2, 0.3, 0.4])} for _ in range(40)]
    trials = [Trial(i, "complete", "tpe", {}, scales.point(f), f) for i, f in enumerate(figures)]
    front = [(t.facts["size"], t.facts["kl"]) for t in pareto_front(trials, ("size", "kl"))]
    every = {(f["size"], f["kl"]) for f in figures}
    assert set(front) == {a for a in every if not any(dominates(b, a) for b in every)}
    assert len(front) == len(set(front)) and front == sorted(front)
