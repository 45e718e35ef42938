"""From logits to the next token: greedy, or drawn after temperature, top-k, top-p, min-p and a repetition penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepseek_cli.errors import UsageError


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
        self.random = np.random.default_rng(sampling.seed)

    def pick(self, logits: np.ndarray, seen: Sequence[int] = ()) -> int:
        """The next token from float32 logits [vocabulary]; `seen` are the tokens that the penalty falls on."""
        s = self.sampling
        if s.repetition_penalty != 1.0 and seen:
            logits = penalised(logits, seen, s.repetition_penalty)
        if s.temperature == 0:
            return int(logits.argmax())
        order, probability = candidates(logits / s.temperature, s.top_k)
        keep = probability >= s.min_p * probability[0]
        if s.top_p < 1:
            keep &= np.cumsum(probability) - probability < s.top_p  # the token that crosses the threshold stays
        keep[0] = True
        order, probability = order[keep], probability[keep]
        return int(self.random.choice(order, p=probability / probability.sum()))


def penalised(logits: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """Seen tokens' logits divided by the penalty where positive, multiplied where negative (arXiv 1909.05858, section 4.1)."""
    logits, index = logits.copy(), np.unique(np.asarray(seen))
    logits[index] = np.where(logits[index] > 0, logits[index] / penalty, logits[index] * penalty)
    return logits


def candidates(logits: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens by falling probability, and their probabilities; only the `top_k` likeliest where it is not 0."""
    if 0 < top_k < logits.size:
        best = np.argpartition(logits, -top_k)[-top_k:]
        order = best[np.argsort(-logits[best], kind="stable")]
    else:
        order = np.argsort(-logits, kind="stable")
    weight = np.exp((logits[order] - logits[order[0]]).astype(np.float64))
    return order, weight / weight.sum()
