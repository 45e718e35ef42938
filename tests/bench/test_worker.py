from __future__ import annotations

import numpy as np
import pytest

from deepseek_cli.bench import worker
from deepseek_cli.bench.metrics import METRICS
from deepseek_cli.bench.worker import Arm, measure_round, warm_up
from deepseek_cli.profile.memory import Resident


class Recorder:
    """A session that only remembers what was asked of it."""

    kv_bytes = 1000

    def __init__(self) -> None:
        self.position = 0
        self.fed: list[tuple[int, int]] = []  # position, tokens

    def feed(self, tokens, keep=1):
        self.fed.append((self.position, len(tokens)))
        self.position += len(tokens)
        return np.eye(1, 8, 3, dtype=np.float32)

    def rewind(self, position):
        assert position <= self.position
        self.position = position


def arm(prompts=(4,), depths=(0, 6), news=(2,)):
    return Arm(Recorder(), list(range(8)), prompts, news, depths)


def test_a_round_prefills_once_and_decodes_at_each_depth():
    measured = arm()
    measure_round(measured)
    assert measured.session.fed == [(0, 4), (4, 2), (6, 1), (7, 1), (0, 1), (1, 1)]


def test_a_depth_below_the_prompt_needs_no_second_prefill():
    measured = arm(prompts=(8,), depths=(3,))
    measure_round(measured)
    assert measured.session.fed == [(0, 8), (3, 1), (4, 1)]


def test_every_prompt_is_read_from_an_empty_cache():
    measured = arm(prompts=(2, 5), depths=(0,))
    values = measure_round(measured)["values"]
    assert measured.session.fed == [(0, 2), (0, 5), (0, 1), (1, 1)]
    assert {"prefill@2", "prefill@5", "first_token@2", "first_token@5"} <= set(values)


def test_shorter_decodings_are_the_beginning_of_the_longest():
    measured = arm(depths=(0,), news=(1, 3))
    found = measure_round(measured)
    assert measured.session.fed == [(0, 4), (0, 1), (1, 1), (2, 1)]
    assert found["gaps"]["0+1"] == found["gaps"]["0+3"][:1]
    assert found["values"]["decode@0+3"] == pytest.approx(3 / sum(found["gaps"]["0+3"]))


OF_SERVERS = {"tokens", "answers", "goodput", "failed", "prompt", "processor"}
OF_SERVERS |= {f"{time}_{share}" for time in ("ttft", "itl", "e2e") for share in ("p50", "p95", "p99")}
ELSEWHERE = OF_SERVERS | {"load", "load_cold", "start", "start_cold", "gap_p99", "touched", "kl", "agreement", "perplexity"}


def test_a_round_measures_every_metric_that_is_its_own():
    values = measure_round(arm())["values"]
    assert {name.partition("@")[0] for name in values} | ELSEWHERE == set(METRICS)
    assert values["kv"] == 0.001


def test_what_the_system_does_not_tell_is_none_with_a_reason(monkeypatch):
    monkeypatch.setattr(worker.memory, "resident", lambda: Resident(5_000_000))
    monkeypatch.setattr(worker.memory, "peak", lambda: None)
    found = measure_round(arm())
    assert found["values"]["rss"] == 5.0
    assert found["values"]["anonymous"] is None
    assert set(found["missing"]) == {"peak", "anonymous", "file"}


@pytest.mark.parametrize(
    ("seconds", "rounds", "stable"),
    [([1.0, 1.0], 2, True), ([3.0, 1.0, 1.05], 3, True), ([1.0, 2.0, 1.0, 2.0, 1.0, 1.0], 5, False)],
)
def test_warm_up_ends_when_stable_or_after_five(monkeypatch, seconds, rounds, stable):
    times = iter(t for s in seconds for t in (0.0, s))
    monkeypatch.setattr(worker, "measure_round", lambda arm: {})
    monkeypatch.setattr(worker.time, "perf_counter", lambda: next(times))
    found = warm_up(arm())
    assert (len(found["seconds"]), found["stable"]) == (rounds, stable)
