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


def arm(prompt_tokens=4, depths=(0, 6)):
    return Arm(Recorder(), list(range(8)), prompt_tokens, new_tokens=2, depths=depths)


def test_a_round_prefills_once_and_decodes_at_each_depth():
    measured = arm()
    measure_round(measured)
    assert measured.session.fed == [(0, 4), (4, 2), (6, 1), (7, 1), (0, 1), (1, 1)]


def test_a_depth_below_the_prompt_needs_no_second_prefill():
    measured = arm(prompt_tokens=8, depths=(3,))
    measure_round(measured)
    assert measured.session.fed == [(0, 8), (3, 1), (4, 1)]


def test_a_round_measures_every_metric():
    values = measure_round(arm())["values"]
    assert {name.partition("@")[0] for name in values} | {"load"} == set(METRICS)
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
