"""From logits to the next token: greedy, or drawn after temperature, top-k, top-p, min-p and a repetition penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deepseek_cli.errors import UsageError

FIRST = 256  # tokens that are sorted at first
COLDEST = 1e-6  # temperature; below it the greatest logit is drawn in any case, and float32 would overflow
MORE = 8  # times as many where they are too few


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 is greedy. Filters apply in the order of the fields; 0 (for top_p: 1) switches one off."""

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("repetition_penalty", 0.1, 10),
            ("temperature", 0, 10),
            ("top_k", 0, 1 << 20),
            ("top_p", 0, 1),
            ("min_p", 0, 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise UsageError(
                    "{flag} must lie from {low} to {high}.",
                    hint="Change it.",
                    flag=f"--{name.replace('_', '-')}",
                    low=low,
                    high=high,
                )


class Sampler:
    """Draws tokens; the same seed over the same logits draws the same ones."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling

    @cached_property
    def random(self) -> np.random.Generator:
        """numpy.random takes a while to import, and the likeliest token needs none of it."""
        return np.random.default_rng(self.sampling.seed)

    def pick(self, logits: np.ndarray, seen: Sequence[int] = ()) -> int:
        """The next token from float32 logits [vocabulary]; `seen` are the tokens that the penalty falls on."""
        s = self.sampling
        if s.repetition_penalty != 1.0 and seen:
            logits = penalised(logits, seen, s.repetition_penalty)
        if s.temperature < COLDEST:
            return int(logits.argmax())
        return _drawn(logits / s.temperature, s, self.random.random())


def _drawn(logits: np.ndarray, sampling: Sampling, uniform: float) -> int:
    """The token that lies at `uniform` of the kept probabilities' sum, the likeliest first.

    Sorting a whole vocabulary takes longer than all else: a few are sorted, and more where these do not decide it.
    """
    size = min(sampling.top_k or logits.size, logits.size)
    weight = np.exp((logits - logits.max()).astype(np.float64))
    count = size if sampling.top_k else min(FIRST, size)
    while True:
        order = likeliest(logits, count)
        part = weight[order]
        probability = part / (part.sum() if sampling.top_k else weight.sum())
        keep = probability >= sampling.min_p * probability[0]
        if sampling.top_p < 1:
            keep &= np.cumsum(probability) - probability < sampling.top_p  # the token that crosses the threshold stays
        keep[0] = True
        cumulated = np.cumsum(probability[keep])
        ended = count >= size or len(cumulated) < count  # nothing behind these is kept
        share = cumulated / cumulated[-1] if ended else cumulated
        if ended or ((sampling.min_p, sampling.top_p) == (0, 1) and share[-1] > uniform):
            return int(order[keep][share.searchsorted(uniform, side="right")])
        count = min(count * MORE, size)


def penalised(logits: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """Seen tokens' logits divided by the penalty where positive, multiplied where negative (arXiv 1909.05858, section 4.1)."""
    logits, index = logits.copy(), np.unique(np.asarray(seen))
    logits[index] = np.where(logits[index] > 0, logits[index] / penalty, logits[index] * penalty)
    return logits


def likeliest(logits: np.ndarray, count: int) -> np.ndarray:
    """So many tokens by falling logit; of equal ones those of lower number."""
    if count < logits.size:
        least = np.partition(logits, -count)[-count]
        best = np.flatnonzero(logits >= least)
    else:
        best = np.arange(logits.size)
    return best[np.argsort(-logits[best], kind="stable")][:count]
