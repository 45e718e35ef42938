from __future__ import annotations

import json
from dataclasses import replace

import pytest

from deepseek_cli.bench import arms
from deepseek_cli.bench.gates import INCONCLUSIVE, PASSED, SLOWER, TOO_FEW, confirmed, judge
from deepseek_cli.main import main
from tests.bench import scripted

STEADY = [100.0, 101.0, 99.0, 100.0, 100.5, 99.5, 100.0, 100.0]  # tokens a second
QUICK = ["--set", "starts=0", "--set", "roofline=false", "--json", "--threads", "1"]


def times(factor, samples=STEADY):
    """A script's values, at a speed of so many times STEADY's."""
    return {"values": {"prefill@512": STEADY, "decode@0": [factor * s for s in samples]}}


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return lambda answers: monkeypatch.setattr(arms, "BOOT", scripted.boot(answers))


@pytest.fixture
def baseline(script, tmp_path, capsys):
    """A saved run of the arm `model`, at STEADY's speed."""
    script({"model": times(1) | {"digest": "d1"}})
    assert main(["bench", "model", *QUICK, "--save", "base.json"]) == 0
    capsys.readouterr()
    return tmp_path / "base.json"


def gated(capsys, *argv):
    code = main(["bench", *argv, *QUICK])
    found = json.loads(capsys.readouterr().out)
    return code, found, {check["metric"]: check for check in found.get("gates", [])}


@pytest.mark.parametrize(("factor", "code", "verdict"), [(1.0, 0, PASSED), (0.5, 1, SLOWER), (2.0, 0, PASSED)])
def test_a_surely_slower_run_fails(script, baseline, capsys, factor, code, verdict):
    script({"model": times(factor)})
    found_code, found, checks = gated(capsys, "model", "--baseline", "base.json", "--max-slowdown", "5%")
    assert (found_code, checks["decode@0"]["verdict"], checks["prefill@512"]["verdict"]) == (code, verdict, PASSED)
    assert checks["decode@0"]["slowdown"] == pytest.approx(1 / factor - 1)
    assert bool(found["second_pass"]) == (verdict == SLOWER)


def test_what_lies_across_the_threshold_is_inconclusive_and_said_so(script, baseline, capsys):
    script({"model": times(1, [80.0, 120.0, 90.0, 110.0, 85.0, 115.0, 100.0, 95.0])})
    code, found, checks = gated(capsys, "model", "--baseline", "base.json", "--max-slowdown", "5%")
    assert (code, checks["decode@0"]["verdict"]) == (0, INCONCLUSIVE)
    assert any("nconclusive" in warning for warning in found["warnings"])


def test_too_few_rounds_give_no_verdict(script, baseline, capsys):
    script({"model": times(0.5)})
    code, _, checks = gated(capsys, "model", "--baseline", "base.json", "--max-slowdown", "5%", "--rounds", "3")
    assert (code, checks["decode@0"]["verdict"], checks["decode@0"]["interval"]) == (0, TOO_FEW, None)
    assert "fewer than 6" in checks["decode@0"]["reason"]


def test_without_a_threshold_a_baseline_is_only_compared_with(script, baseline, capsys):
    script({"model": times(0.5)})
    code, _, checks = gated(capsys, "model", "--baseline", "base.json")
    assert (code, checks["decode@0"]["verdict"]) == (0, "")


def test_without_a_baseline_the_first_model_is_the_reference(script, capsys):
    drifting = [s * (1 + i) for i, s in enumerate(STEADY)]  # the machine gets faster; round by round the ratio is the same
    script({"old": {"values": {"decode@0": drifting}}, "new": {"values": {"decode@0": [0.9 * s for s in drifting]}}})
    code, found, checks = gated(capsys, "old", "new", "--max-slowdown", "5%")
    assert (code, len(found["gates"]), checks["decode@0"]["arm"]) == (1, 1, "new")
    assert checks["decode@0"]["interval"] == [pytest.approx(1 / 9), pytest.approx(1 / 9)]


def test_another_name_is_matched_by_digest(script, baseline, capsys):
    script({"renamed": times(1) | {"digest": "d1"}})
    code, _, checks = gated(capsys, "renamed", "--baseline", "base.json", "--max-slowdown", "5%")
    assert (code, checks["decode@0"]["reference"]) == (0, "model")


def test_a_baseline_of_other_models_is_refused(script, baseline, capsys):
    script({"stranger": times(1) | {"digest": "d2"}})
    code, found, _ = gated(capsys, "stranger", "--baseline", "base.json")
    assert code == 2
    assert "it has model" in found["error"]["message"]


def test_a_model_that_the_baseline_has_not_is_named_and_the_others_are_judged(script, baseline, capsys):
    script({"model": times(1), "stranger": times(1)})
    code, found, checks = gated(capsys, "model", "stranger", "--baseline", "base.json", "--max-slowdown", "5%")
    assert (code, checks["decode@0"]["arm"], len(found["gates"])) == (0, "model", 2)
    assert found["warnings"] == ["stranger is not in the baseline, neither by name nor by digest."]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d["environment"].update(processor="Z80"), "processor Z80"),
        (lambda d: d["environment"].update(threads=64), "threads 64 / 1"),
        (lambda d: d["environment"].update(flags=["sse"]), "flags sse"),
        (lambda d: d["settings"].update(prompt_tokens=[7]), "prompt_tokens 7 / 512"),
        (lambda d: d.update(schema="deepseek.bench/1"), "deepseek.bench/1"),
        (lambda d: d.pop("settings"), "damaged"),
        (lambda d: d["arms"][0]["metrics"]["decode@0"].update(samples=[0]), "damaged"),
        (lambda d: d["arms"][0]["metrics"]["decode@0"].update(samples=["<"]), "damaged"),
    ],
)
def test_a_baseline_that_cannot_be_compared_with_is_refused_before_measuring(script, baseline, capsys, change, named):
    script({})
    document = json.loads(baseline.read_text())
    change(document)
    baseline.write_text(json.dumps(document))
    code, found, _ = gated(capsys, "model", "--baseline", "base.json")
    assert (code, found["error"]["code"]) == (2, "usage-error")
    assert named in found["error"]["message"]


@pytest.mark.parametrize("content", ["", "[]", "not json", "{}"])
def test_a_file_that_is_no_baseline_is_a_usage_error(script, tmp_path, capsys, content):
    (tmp_path / "base.json").write_text(content)
    assert gated(capsys, "model", "--baseline", "base.json")[0] == 2


def test_only_what_both_passes_say_is_slower():
    arm = {"name": "b", "digest": None, "metrics": {"decode@0": {"samples": [50.0] * 6}}}
    first = {"name": "a", "digest": None, "metrics": {"decode@0": {"samples": [100.0] * 6}}}
    (slow,) = judge({"arms": [first, arm]}, None, 0.05)
    assert (slow.verdict, slow.slowdown) == (SLOWER, 1.0)
    assert [c.verdict for c in confirmed([slow], [slow])] == [SLOWER]
    assert [c.verdict for c in confirmed([slow], [replace(slow, verdict=PASSED)])] == [INCONCLUSIVE]
    assert [c.verdict for c in confirmed([slow], [])] == [INCONCLUSIVE]
