from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from deepseek_cli.errors import UsageError
from deepseek_cli.runtime.sampling import Sampler, Sampling

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.08, 0.02], dtype=np.float32))


def drawn(sampling: Sampling, count: int = 4000, seen: tuple[int, ...] = ()) -> Counter[int]:
    sampler = Sampler(sampling)
    return Counter(sampler.pick(LOGITS, seen) for _ in range(count))


def test_temperature_zero_is_greedy() -> None:
    assert set(drawn(Sampling(), 10)) == {0}


def test_draws_follow_the_distribution() -> None:
    counts = drawn(Sampling(temperature=1.0, seed=1))
    np.testing.assert_allclose([counts[i] / 4000 for i in range(5)], np.exp(LOGITS), atol=0.03)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 1}, {0}),
        ({"top_k": 50}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.6}, {0, 1}),
        ({"top_p": 0.0}, {0}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"top_k": 3, "top_p": 0.7}, {0, 1}),
    ],
)
def test_filters(options: dict[str, float], allowed: set[int]) -> None:
    assert set(drawn(Sampling(temperature=1.0, seed=2, **options))) == allowed  # type: ignore[arg-type]


def test_the_same_seed_draws_the_same() -> None:
    draws = [[Sampler(Sampling(temperature=1.0, seed=s)).pick(LOGITS) for _ in range(1)] for s in (3, 3)]
    assert draws[0] == draws[1]


@pytest.mark.parametrize("spread", [0.01, 2.0, 8.0])  # nearly even; as texts are; nearly certain
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 40}, {"top_k": 3000, "top_p": 0.9}, {"top_p": 0.95}, {"min_p": 0.02}, {"top_p": 0.9, "min_p": 0.3}]
)
def test_picks_are_those_of_sorting_everything(spread: float, options: dict[str, float]) -> None:
    """numpy's own draw over all tokens by falling probability, filtered."""
    sampling = Sampling(temperature=0.8, seed=5, **options)  # type: ignore[arg-type]
    logits = np.random.default_rng(1).normal(0, spread, (60, 5000)).astype(np.float32).round(3)  # with equal ones
    sampler, draw = Sampler(sampling), np.random.default_rng(5)
    for row in logits:
        scaled = row / 0.8
        order = np.argsort(-scaled, kind="stable")[: sampling.top_k or None]
        weight = np.exp((scaled[order] - scaled[order[0]]).astype(np.float64))
        weight /= weight.sum()
        keep = (weight >= sampling.min_p * weight[0]) & (np.cumsum(weight) - weight < sampling.top_p)
        assert sampler.pick(row) == draw.choice(order[keep], p=weight[keep] / weight[keep].sum())


def test_a_token_that_is_ruled_out_is_never_drawn() -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[[3, 700]] = 1.0
    sampler = Sampler(Sampling(temperature=1.0, seed=0))
    assert {sampler.pick(logits) for _ in range(50)} == {3, 700}


def test_a_repetition_penalty_lowers_what_was_seen() -> None:
    assert Sampler(Sampling(repetition_penalty=3.0)).pick(LOGITS, [0]) == 1
    positive = np.array([2.0, 1.5], dtype=np.float32)
    assert Sampler(Sampling(repetition_penalty=2.0)).pick(positive, [0]) == 1
    assert positive[0] == 2.0


@pytest.mark.parametrize("options", [{"temperature": -1}, {"top_p": 1.5}, {"min_p": -0.1}, {"repetition_penalty": 0}])
def test_values_out_of_range_name_their_flag(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="--" + next(iter(options)).replace("_", "-")):
        Sampling(**options)  # type: ignore[arg-type]
