from __future__ import annotations

import random
import statistics

import pytest

from deepseek_cli.bench.metrics import METRICS, decodings, place, unit
from deepseek_cli.bench.spec import BenchSpec
from deepseek_cli.bench.statistics import interval, interval_of_quotient, is_stable, noise, paired_ratio, rank, summary
from deepseek_cli.errors import UsageError


def test_summary_has_median_mad_extremes_and_samples_in_order():
    found = summary([5.0, 1.0, 3.0, 100.0])
    assert found == {"median": 4.0, "mad": 2.0, "min": 1.0, "max": 100.0, "samples": [5.0, 1.0, 3.0, 100.0]}


def test_a_paired_ratio_cancels_what_slows_a_whole_round():
    assert paired_ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == {"median": 2.0, "interval": None}
    assert paired_ratio([1.0], [0.0]) is None


def test_an_interval_needs_six_samples():
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert 1.0 <= low <= 3.5 <= high <= 6.0


def test_an_interval_holds_the_true_median_about_as_often_as_it_says():
    draw = random.Random(1)
    found = [interval([draw.gauss(10, 1) for _ in range(12)]) for _ in range(60)]
    assert sum(low <= 10 <= high for low, high in found) >= 52  # 57 are expected; fewer than 52 come once in 100 times


def test_an_interval_is_the_same_each_time():
    samples = [random.Random(2).random() for _ in range(9)]
    assert interval(samples) == interval(samples)


def test_a_quotient_of_medians_is_not_paired():
    slow, fast = [2.0, 2.1, 1.9, 2.0, 2.2, 1.8], [1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0]
    low, high = interval_of_quotient(slow, fast)
    assert low < statistics.median(slow) / statistics.median(fast) == 2.0 < high
    assert interval_of_quotient(slow, fast[:5]) is None


def test_noise_compares_rounds_of_the_same_place_in_the_order():
    assert noise([1.0, 5.0, 1.0, 5.0, 1.0, 5.0, 1.0, 5.0]) == 0.0
    assert noise([1.0, 1.0, 1.1, 1.1, 1.0, 1.0, 1.1, 1.1]) == pytest.approx(0.1)
    assert noise([1.0] * 7) is None


@pytest.mark.parametrize(("share", "expected"), [(0.5, 10), (0.95, 19), (1.0, 20)])
def test_rank_is_the_nearest(share, expected):
    assert rank(list(range(20, 0, -1)), share) == expected


def test_rank_of_one_sample():
    assert rank([7.0], 0.95) == 7.0


def test_stable_means_the_last_two_agree_within_a_tenth():
    assert not is_stable([1.0])
    assert not is_stable([1.0, 1.2])
    assert is_stable([9.0, 1.0, 1.09])


def test_every_metric_has_a_formula():
    assert all(formula for _, formula in METRICS.values())
    assert unit("decode@512+64") == "tok/s"


def test_a_place_names_new_tokens_only_where_there_are_several_counts():
    assert decodings(512, (64,)) == {"512": 64}
    assert decodings(512, (16, 64)) == {"512+16": 16, "512+64": 64}
    assert sorted(["decode@512", "decode@64+128", "decode@64+16", "kv"], key=place) == [
        "kv",
        "decode@64+16",
        "decode@64+128",
        "decode@512",
    ]


def test_lists_are_sorted_and_unique():
    spec = BenchSpec(depth="512, 0,512", new_tokens="10", prompt_tokens="600,30")
    assert spec.depths == (0, 512)
    assert spec.prompts == (30, 600)
    assert spec.longest == 600
    assert BenchSpec(depth="512", new_tokens="16,64", prompt_tokens="8").longest == 576


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"rounds": 0}, "--rounds"),
        ({"new_tokens": "0"}, "--new-tokens"),
        ({"prompt_tokens": "-1"}, "--prompt-tokens"),
        ({"prompt_tokens": "512,x"}, "--prompt-tokens"),
        ({"depth": "0;512"}, "--depth"),
        ({"depth": "-1"}, "--depth"),
        ({"depth": ""}, "--depth"),
        ({"max_slowdown": "5"}, "--max-slowdown"),
        ({"starts": -1}, "starts"),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(given, named):
    with pytest.raises(UsageError, match=named):
        BenchSpec(**given)
