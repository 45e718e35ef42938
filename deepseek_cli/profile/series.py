"""What is read of a row of measurements: its shape in few points, and whether it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

Sample = TypeVar("Sample", bound=tuple[float, ...])

STUDENT_95 = {1: 12.71, 2: 4.31, 3: 3.19, 4: 2.78, 5: 2.58, 6: 2.45, 8: 2.31, 10: 2.23, 15: 2.14, 20: 2.09, 30: 2.05, 60: 2.0}


def thin(samples: list[Sample], most: int) -> list[Sample]:
    """At most `most` samples: those lowest and highest in the second value of every bucket, in order of the first."""
    if len(samples) <= most:
        return samples
    buckets = most // 2
    kept = []
    for i in range(buckets):
        bucket = samples[i * len(samples) // buckets : (i + 1) * len(samples) // buckets]
        kept += sorted({min(bucket, key=lambda s: s[1]), max(bucket, key=lambda s: s[1])})
    return kept


@dataclass(frozen=True, slots=True)
class Trend:
    """Growth from one value to the next, and the interval that holds it with 95 % confidence."""

    slope: float
    low: float
    high: float


def trend(values: Sequence[float]) -> Trend:
    """By least squares; needs three values."""
    freedom, middle, mean = len(values) - 2, (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((i - middle) ** 2 for i in range(len(values)))
    slope = sum((i - middle) * (v - mean) for i, v in enumerate(values)) / spread
    left = sum((v - mean - slope * (i - middle)) ** 2 for i, v in enumerate(values))
    half = STUDENT_95[max(n for n in STUDENT_95 if n <= freedom)] * sqrt(left / freedom / spread)
    return Trend(slope, slope - half, slope + half)
