"""Which sampler proposes next: trials go to whoever gained more hypervolume of late, and never only there.

Everything follows from the trials so far, so that any process, and the same study later, decides alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deepseek_cli.tune.front import Trial

FIRST = 4  # trials each before gains are compared
LEAST = 0.15  # of all trials, to every sampler
MEMORY = 0.95  # what a gain counts a trial later: the front gets harder to move, for all of them


def shares(arms: Sequence[str], trials: Sequence[Trial], gains: Mapping[int, float]) -> dict[str, float]:
    """The share of trials that each of `arms` should get: `LEAST`, and more by what a trial of it gains."""
    rates = dict.fromkeys(arms, 0.0)
    for arm in arms:
        weights = {t.number: MEMORY ** (len(trials) - i) for i, t in enumerate(trials) if t.sampler == arm and _is_over(t)}
        if total := sum(weights.values()):
            rates[arm] = sum(weight * gains.get(number, 0.0) for number, weight in weights.items()) / total
    least = min(LEAST, 1 / len(arms))
    rest, total = 1 - least * len(arms), sum(rates.values())
    return {arm: least + rest * (rates[arm] / total if total else 1 / len(arms)) for arm in arms}


def next_arm(arms: Sequence[str], trials: Sequence[Trial], gains: Mapping[int, float]) -> str:
    """The sampler that lags most behind its share; running trials count as given."""
    given = {arm: sum(t.sampler == arm for t in trials) for arm in arms}
    if fresh := [arm for arm in arms if given[arm] < FIRST]:
        return min(fresh, key=lambda arm: given[arm])
    recent = {
        arm: sum(MEMORY ** (len(trials) - i) for i, t in enumerate(trials) if t.sampler == arm) for arm in arms
    }  # so that a sampler which comes to gain is not held to what it was given when it did not
    wanted, total = shares(arms, trials, gains), sum(recent.values())
    return max(arms, key=lambda arm: wanted[arm] * (total + 1) - recent[arm])


def _is_over(trial: Trial) -> bool:
    return trial.state in ("complete", "pruned", "failed")
