from __future__ import annotations

import pytest

from deepseek_cli.bench.metrics import METRICS, is_stable, paired_ratio, rank, summary, unit
from deepseek_cli.bench.spec import BenchSpec
from deepseek_cli.errors import UsageError


def test_summary_has_median_mad_extremes_and_samples_in_order():
    found = summary([5.0, 1.0, 3.0, 100.0])
    assert found == {"median": 4.0, "mad": 2.0, "min": 1.0, "max": 100.0, "samples": [5.0, 1.0, 3.0, 100.0]}


def test_a_paired_ratio_cancels_what_slows_a_whole_round():
    assert paired_ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == 2.0
    assert paired_ratio([1.0], [0.0]) is None


@pytest.mark.parametrize(("share", "expected"), [(0.5, 10), (0.95, 19), (1.0, 20)])
def test_rank_is_the_nearest(share, expected):
    assert rank(list(range(20, 0, -1)), share) == expected


def test_rank_of_one_sample():
    assert rank([7.0], 0.95) == 7.0


def test_stable_means_the_last_two_agree_within_a_tenth():
    assert not is_stable([1.0])
    assert not is_stable([1.0, 1.2])
    assert is_stable([9.0, 1.0, 1.09])


def test_every_metric_has_a_unit_and_a_formula():
    assert all(u and formula for u, formula in METRICS.values())
    assert unit("decode@512") == "tok/s"


def test_depths_are_sorted_and_unique():
    spec = BenchSpec(depth="512, 0,512", new_tokens=10, prompt_tokens=30)
    assert spec.depths == (0, 512)
    assert spec.longest == 522


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"rounds": 0}, "--rounds"),
        ({"new_tokens": 0}, "--new-tokens"),
        ({"prompt_tokens": -1}, "--prompt-tokens"),
        ({"depth": "0;512"}, "--depth"),
        ({"depth": "-1"}, "--depth"),
        ({"depth": ""}, "--depth"),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(given, named):
    with pytest.raises(UsageError, match=named):
        BenchSpec(**given)
