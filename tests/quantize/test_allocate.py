from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from deepseek_cli.quantize import allocate
from deepseek_cli.quantize.allocate import Option, frontier, solve
from deepseek_cli.schemes import parse_scheme

SCHEMES = [parse_scheme(name) for name in ("int4-g128", "int4-g64", "int4-g32", "int8", "int8-g32")]


def drawn(seed: int, units: int = 5) -> list[list[Option]]:
    """Options in no order, some worse than smaller ones, as measuring may find them."""
    draw = random.Random(seed)
    return [[Option(scheme, draw.randrange(100, 900), draw.random() ** 3) for scheme in SCHEMES] for _ in range(units)]


def cost(chosen: Sequence[Option]) -> tuple[int, float]:
    return sum(option.size_bytes for option in chosen), sum(option.kl for option in chosen)


def best(units: Sequence[Sequence[Option]], budget: int) -> float:
    return min(kl for size, kl in map(cost, itertools.product(*units)) if size <= budget)


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_within_the_budget_is_better(seed: int) -> None:
    units = drawn(seed)
    least = sum(min(option.size_bytes for option in options) for options in units)
    for budget in (least, least + 1, least + 400, least + 1500, 10_000):
        chosen = solve(units, budget)
        size, kl = cost(chosen)
        assert all(option in options for option, options in zip(chosen, units, strict=True))
        assert size <= budget
        assert kl == pytest.approx(best(units, budget), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_sizes_rounded_up_to_buckets_still_fit_and_lose_little(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocate, "BUCKETS", 100)
    units = drawn(seed)
    budget = 2000
    size, kl = cost(solve(units, budget))
    assert size <= budget
    assert best(units, budget) <= kl + 1e-12
    assert kl <= best(units, budget - len(units) * -(-budget // 100)) + 1e-12  # each unit loses less than a bucket


def test_a_budget_below_the_smallest_options_is_refused() -> None:
    units = drawn(1)
    least = sum(min(option.size_bytes for option in options) for options in units)
    with pytest.raises(ValueError, match="1 bytes too few"):
        solve(units, least - 1)


def test_the_frontier_holds_the_goal_and_falls_with_size() -> None:
    units = drawn(3)
    points = frontier(units, 2500, fixed_bytes=7000)
    assert [point.goal for point in points].count(True) == 1
    assert len(points) == allocate.POINTS + 1
    assert all(a.kl >= b.kl and a.size_bytes <= b.size_bytes for a, b in itertools.pairwise(points))
    (goal,) = (point for point in points if point.goal)
    assert goal.size_bytes - 7000 <= 2500
    assert goal.kl == pytest.approx(best(units, 2500))
