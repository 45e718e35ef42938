"""Which scheme each unit gets, so that a model of a given size diverges least from its original.

The divergences that units cause add up (HIGGS, arXiv 2411.17525, theorem 1): a knapsack with one choice a unit. Dynamic
programming solves it exactly where all sizes share a divisor that is coarse enough, as they do up to some billion parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepseek_cli.schemes import Scheme

BUCKETS = 1 << 17  # that bytes beyond the smallest sizes are counted in, at most; a size is rounded up to them
POINTS = 6  # of the frontier, beside the goal itself


@dataclass(frozen=True, slots=True)
class Option:
    """A scheme for a unit: what all of the unit's tensors take in it, and the KL divergence that this causes alone."""

    scheme: Scheme
    size_bytes: int
    kl: float


@dataclass(frozen=True, slots=True)
class Point:
    """What a model of `size_bytes` comes to; `goal` is the point that was asked for."""

    size_bytes: int
    kl: float
    goal: bool


def solve(units: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """An option for each unit, within `budget` bytes and with the least divergence in all.

    Raises ValueError when the smallest options take more.
    """
    smallest = [min(option.size_bytes for option in options) for options in units]
    room = budget - sum(smallest)
    if room < 0:
        raise ValueError(f"{-room} bytes too few")
    extra = [[option.size_bytes - least for option in options] for options, least in zip(units, smallest, strict=True)]
    bucket = max(math.gcd(*(size for sizes in extra for size in sizes)), -(-room // BUCKETS), 1)
    costs = [[-(-size // bucket) for size in sizes] for sizes in extra]
    best = torch.zeros(room // bucket + 1, dtype=torch.float64)  # the least divergence by how many buckets may be filled
    picks: list[Tensor] = []
    for options, cost in zip(units, costs, strict=True):
        best, pick = torch.stack([_after(best, c) + o.kl for o, c in zip(options, cost, strict=True)]).min(0)
        picks.append(pick.to(torch.uint8))
    chosen, left = [], len(best) - 1
    for options, cost, pick in zip(reversed(units), reversed(costs), reversed(picks), strict=True):
        i = int(pick[left])
        chosen.append(options[i])
        left -= cost[i]
    return chosen[::-1]


def _after(best: Tensor, cost: int) -> Tensor:
    """What is best for the others where `cost` buckets are taken; infinite where they are not there."""
    taken = min(cost, len(best))
    return torch.cat((torch.full((taken,), torch.inf, dtype=best.dtype), best[: len(best) - taken]))


def frontier(units: Sequence[Sequence[Option]], budget: int, fixed_bytes: int = 0) -> tuple[Point, ...]:
    """What sizes evenly spread over all that can be reached come to, and `budget` among them; `fixed_bytes` is all else."""
    least, most = (sum(pick(option.size_bytes for option in options) for options in units) for pick in (min, max))
    budgets = {least + (most - least) * i // (POINTS - 1) for i in range(POINTS)} | {budget}
    points = []
    for size in sorted(budgets):
        chosen = solve(units, size)
        kl = math.fsum(option.kl for option in chosen)
        points.append(Point(fixed_bytes + sum(option.size_bytes for option in chosen), kl, size == budget))
    return tuple(points)
