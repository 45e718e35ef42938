"""What is measured, in which unit and by which formula; and the statistics over rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

# A figure taken at a depth is named `decode@512`: 512 tokens lie in the KV cache when the first of its tokens is fed.
METRICS: dict[str, tuple[str, str]] = {
    "load": ("s", "opening the session in a fresh process, its imports done; files as the page cache holds them"),
    "first_token": (
        "ms",
        "from the prompt's token ids to the first new token id: prefill, and choosing the likeliest; no tokenization",
    ),
    "prefill": ("tok/s", "prompt tokens / seconds of feeding them into an empty cache, logits of the last position only"),
    "decode": ("tok/s", "new tokens / sum of their gaps, at this depth"),
    "gap_p50": ("ms", "half of the gaps between tokens are at most this; a gap is feeding a token and choosing the next"),
    "gap_p95": ("ms", "95 % of the gaps between tokens at this depth are at most this (nearest rank)"),
    "peak": ("MB", "the most that was resident in the model's process since it started; 1 MB is 1,000,000 bytes"),
    "rss": ("MB", "resident after decoding at the greatest depth, anonymous + file-backed"),
    "anonymous": ("MB", "the part of rss that no file backs: heaps, activations, KV cache, converted weights"),
    "file": ("MB", "the part of rss that files back: mapped weights, libraries"),
    "kv": ("MB", "bytes of the KV cache that hold tokens, after decoding at the greatest depth"),
}
MORE_IS_BETTER = ("prefill", "decode")


def unit(name: str) -> str:
    return METRICS[name.partition("@")[0]][0]


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


def paired_ratio(samples: Sequence[float], first: Sequence[float]) -> float | None:
    """Median over rounds of sample / first arm's sample of the same round. What slows a whole round down cancels."""
    ratios = [a / b for a, b in zip(samples, first, strict=False) if b]
    return statistics.median(ratios) if ratios else None


def rank(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` of all samples do not exceed."""
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


def is_stable(seconds: Sequence[float], tolerance: float = 0.1) -> bool:
    """Whether the last two of at least two runs lie within `tolerance` of each other."""
    return len(seconds) >= 2 and abs(seconds[-1] - seconds[-2]) <= tolerance * min(seconds[-2:])
