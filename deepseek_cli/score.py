"""How far two models' predictions are apart, summed over positions of a text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

RESAMPLES = 2000  # of the paired bootstrap
CONFIDENCE = 0.95


@dataclass
class Score:
    """`kl` keeps each position's divergence in nats; `right` each predicted token's (reference is right, candidate is right)."""

    kl: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    agree: int = 0
    reference_nll: float = 0.0
    candidate_nll: float = 0.0

    def update(self, reference: Tensor, candidate: Tensor, targets: Tensor) -> None:
        """Logits [n, vocabulary] of both; `targets` [n or n - 1] are the tokens that follow."""
        p, q = reference.log_softmax(-1), candidate.log_softmax(-1)
        self.kl.append((p.exp() * (p - q)).sum(-1))
        best = torch.stack((p.argmax(-1), q.argmax(-1)), dim=-1)
        self.agree += int((best[:, 0] == best[:, 1]).sum())
        n = len(targets)
        pick = lambda t: -t[:n].gather(-1, targets[:, None]).sum().item()  # noqa: E731
        self.reference_nll, self.candidate_nll = self.reference_nll + pick(p), self.candidate_nll + pick(q)
        self.right.append(best[:n] == targets[:, None])

    def result(self) -> dict[str, float | int]:
        kl, right = torch.cat(self.kl), torch.cat(self.right)
        accuracy = right.double().mean(0)
        return {
            "kl": kl.mean().item(),
            "kl_p99": kl.quantile(0.99).item(),
            "kl_p999": kl.quantile(0.999).item(),
            "agreement": self.agree / len(kl),
            "perplexity": math.exp(self.candidate_nll / len(right)),
            "reference_perplexity": math.exp(self.reference_nll / len(right)),
            "accuracy": accuracy[1].item(),
            "reference_accuracy": accuracy[0].item(),
            "accuracy_loss_most": most_accuracy_loss(right),
            "tokens": len(kl),
        }


def pooled(scores: Iterable[Score]) -> Score:
    """One score over the positions of several."""
    total = Score()
    for score in scores:
        total.kl += score.kl
        total.right += score.right
        total.agree += score.agree
        total.reference_nll += score.reference_nll
        total.candidate_nll += score.candidate_nll
    return total


def most_accuracy_loss(right: Tensor) -> float:
    """The upper bound of the relative loss of accuracy."""
    return accuracy_losses(right)[1]


def accuracy_losses(right: Tensor) -> tuple[float, float]:
    """Lower and upper bound of the relative loss of accuracy, each with CONFIDENCE, by a paired bootstrap over tokens.

    (Efron, Tibshirani, 1993, chapter 13.) right bool [n, 2]: whether reference and candidate predict a token. Only the counts of
    the four cases matter, and resampling tokens draws those from a multinomial distribution.
    """
    cases = [(right == torch.tensor(case)).all(-1).sum().item() for case in ((1, 1), (1, 0), (0, 1))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        both, lost, won = _multinomial(len(right), cases)
    losses = 1 - (both + won) / (both + lost).clamp_min(1)
    return losses.quantile(1 - CONFIDENCE).item(), losses.quantile(CONFIDENCE).item()


def _multinomial(count: int, cases: Iterable[float]) -> list[Tensor]:
    """RESAMPLES draws of how often each case comes among `count`, one case after the other among what the others left."""
    drawn, left, of = [], torch.full((RESAMPLES,), float(count), dtype=torch.float64), float(count)
    for case in cases:
        drawn.append(torch.binomial(left, torch.full_like(left, case / of if of else 0.0)))
        left, of = left - drawn[-1], of - case
    return drawn
