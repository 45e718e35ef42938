"""Statistics over rounds: medians, what surely holds of them, and how much the machine alone makes them differ."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

LEAST = 6  # samples: their whole range holds the median with 97 %, that of five with only 94
LEAST_GAPS = 100  # for a 99th percentile other than the greatest
RESAMPLES = 2000
CONFIDENCE = 0.95
SAME_SLOT = 2  # rounds after which an arm has the same place in the order A B, B A


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, median absolute deviation from it, extremes and the samples themselves, in the order they were taken."""
    middle = statistics.median(samples)
    return {
        "median": middle,
        "mad": statistics.median(abs(s - middle) for s in samples),
        "min": min(samples),
        "max": max(samples),
        "samples": list(samples),
    }


def pairs(samples: Sequence[float], first: Sequence[float]) -> list[float]:
    """Sample / first arm's sample of the same round. What slows a whole round down cancels."""
    return [a / b for a, b in zip(samples, first, strict=False) if b]


def paired_ratio(samples: Sequence[float], first: Sequence[float]) -> dict[str, Any] | None:
    """Median of the paired ratios, and its interval, None where there are too few rounds for one."""
    ratios = pairs(samples, first)
    return {"median": statistics.median(ratios), "interval": interval(ratios)} if ratios else None


def interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Of the median, with 95 %, by percentile bootstrap (Efron, Tibshirani, 1993, chapter 13)."""
    if len(samples) < LEAST:
        return None
    return _percentiles(lambda draw: statistics.median(draw(samples)))


def interval_of_quotient(samples: Sequence[float], others: Sequence[float]) -> tuple[float, float] | None:
    """Of median / median, where the two were not taken in pairs."""
    if min(len(samples), len(others)) < LEAST:
        return None
    return _percentiles(lambda draw: statistics.median(draw(samples)) / statistics.median(draw(others)))


def noise(samples: Sequence[float]) -> float | None:
    """How far a ratio of an arm to itself may lie from 1 by chance alone: its rounds beside those two before."""
    found = interval(pairs(samples[SAME_SLOT:], samples))
    return max(found[1] - 1, 1 - found[0]) if found else None


def rank(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` of all samples do not exceed."""
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


def is_stable(seconds: Sequence[float], tolerance: float = 0.1) -> bool:
    """Whether the last two of at least two runs lie within `tolerance` of each other."""
    return len(seconds) >= 2 and abs(seconds[-1] - seconds[-2]) <= tolerance * min(seconds[-2:])


Draw = Callable[[Sequence[float]], list[float]]


def _percentiles(statistic: Callable[[Draw], float]) -> tuple[float, float]:
    generator = random.Random(0)
    draw: Draw = lambda samples: generator.choices(samples, k=len(samples))  # noqa: E731
    found = [statistic(draw) for _ in range(RESAMPLES)]
    return rank(found, (1 - CONFIDENCE) / 2), rank(found, (1 + CONFIDENCE) / 2)
