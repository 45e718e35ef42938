from __future__ import annotations

import csv
import json
import shutil

import pytest

from deepseek_cli.bench import arms
from deepseek_cli.bench.measure import bench
from deepseek_cli.bench.spec import BenchSpec
from deepseek_cli.errors import DeepseekError, MemoryShort, ModelNotFound, UsageError
from deepseek_cli.main import main
from deepseek_cli.manifest import Manifest, write_manifest
from tests.bench import scripted
from tests.toys import DEPLOYABLE, make_toy

QUICK = ["--prompt-tokens", "8", "--new-tokens", "3", "--depth", "0,8", "--rounds", "2", "--threads", "1"]
QUICK += ["--set", "starts=0", "--set", "roofline=false"]
SPEC = BenchSpec(prompt_tokens="8", new_tokens="3", depth="0,8", rounds=2, starts=0, roofline=False)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "toy"
    make_toy(folder, **DEPLOYABLE)
    return folder


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty store, and a working folder without settings."""
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def document(capsys, *argv):
    code = main(["bench", *argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_two_arms_are_measured_and_compared(toy, capsys):
    code, found = document(capsys, str(toy), str(toy), *QUICK)
    first, second = found["arms"]
    assert (code, found["schema"], found["ok"]) == (0, "deepseek.bench/2", True)
    assert [first["name"], second["name"]] == ["toy #1", "toy #2"]
    assert first["ratios"] == {}
    assert set(second["ratios"]) == set(second["metrics"])
    assert len(first["metrics"]["decode@8"]["samples"]) == 2
    assert len(first["metrics"]["load"]["samples"]) == 1
    assert first["metrics"]["kv"]["median"] == pytest.approx(
        2 * 2 * 2 * 16 * 4 * (8 + 3) / 1e6
    )  # layers, k and v, heads, size, bytes
    assert found["environment"]["threads"] == 1
    assert found["metrics"]["prefill"]["unit"] == "tok/s"


def test_several_lengths_are_measured_in_one_run(toy, capsys):
    lists = ["--prompt-tokens", "4,8", "--new-tokens", "2,3", "--depth", "0", *QUICK[6:]]
    code, found = document(capsys, str(toy), *lists)
    names = {name for name in found["arms"][0]["metrics"] if name.startswith(("prefill", "decode"))}
    assert (code, names) == (0, {"prefill@4", "prefill@8", "decode@0+2", "decode@0+3"})
    assert "6 gaps" in found["arms"][0]["missing"]["gap_p99@0+3"]


def test_starts_and_limits_are_measured(toy, tmp_path, capsys):
    code, found = document(capsys, str(toy), *QUICK[:10], "--set", "starts=1")
    (arm,) = found["arms"]
    assert (code, len(arm["metrics"]["start"]["samples"])) == (0, 1)
    assert arm["metrics"]["load"]["median"] < arm["metrics"]["start"]["median"]
    assert "start_cold" in arm["metrics"] or "start_cold" in arm["missing"]
    assert set(found["roofline"]["matrix"]) >= {"fp32", "int8"}
    limit = arm["limits"]["decode@8"]
    assert limit["share"] == pytest.approx(arm["metrics"]["decode@8"]["median"] / limit["limit"])
    assert arm["metrics"]["touched@8"]["median"] == limit["bytes"] / 1e6


def test_the_quality_of_a_model_without_an_original_is_not_measured(toy, capsys):
    code, found = document(capsys, str(toy), *QUICK, "--quality")
    assert code == 0
    assert "was not made from another model" in found["arms"][0]["missing"]["kl"]


def test_quality_stands_beside_speed_where_a_report_card_has_it(toy, tmp_path, capsys):
    folder = shutil.copytree(toy, tmp_path / "carded")
    card = {"kl": 0.05, "agreement": 0.9, "perplexity": 12.5, "against": "toy"}
    write_manifest(folder, Manifest("carded", report=card))
    code, found = document(capsys, str(folder), *QUICK, "--quality")
    (arm,) = found["arms"]
    assert (code, arm["quality"]["origin"], arm["quality"]["against"]) == (0, "report card", "toy")
    assert [arm["metrics"][name]["median"] for name in ("kl", "agreement", "perplexity")] == [0.05, 90.0, 12.5]


def test_each_model_is_measured_densely_and_sparsely(toy, capsys):
    quick = ["--prompt-tokens", "80", "--new-tokens", "3", "--depth", "96", "--rounds", "1", *QUICK[-6:]]
    code, found = document(capsys, str(toy), *quick, "--sparse-attention", "tokens=64")
    dense, sparse = found["arms"]
    assert (code, found["settings"]["sparse_attention"]) == (0, "tokens=64")
    assert (dense["name"], sparse["name"]) == ("toy", "toy tokens=64")
    assert "decode@96" in sparse["ratios"]
    assert sparse["metrics"]["kv"]["median"] > dense["metrics"]["kv"]["median"]


def test_an_arm_that_fails_leaves_the_others_their_figures(toy, capsys):
    code, found = document(capsys, str(toy), "nowhere", *QUICK)
    good, bad = found["arms"]
    assert code == 3
    assert found["ok"] is False
    assert good["error"] is None and good["metrics"]
    assert (bad["name"], bad["error"]["code"], bad["metrics"], bad["ratios"]) == ("nowhere", "model-not-found", {}, {})


def test_a_lone_arm_that_fails_is_the_error(tmp_path):
    with pytest.raises(ModelNotFound, match="nowhere"):
        bench(["nowhere"], SPEC, home=tmp_path)


def test_every_format_is_saved_and_the_first_path_printed(toy, tmp_path, capsys):
    files = [tmp_path / f"speed.{kind}" for kind in ("json", "md", "csv", "svg", "xml")]
    assert main(["bench", str(toy), *QUICK, *(word for file in files for word in ("--save", str(file))), "-q"]) == 0
    assert capsys.readouterr().out.strip() == str(files[0])
    assert json.loads(files[0].read_text())["schema"] == "deepseek.bench/2"
    assert "| decode@8 | tok/s |" in files[1].read_text()
    rows = list(csv.DictReader(files[2].read_text().splitlines()))
    assert {row["arm"] for row in rows} == {"toy"}
    assert next(row for row in rows if row["metric"] == "prefill@8")["more_is_better"] == "True"


def test_an_existing_file_is_kept_without_force(toy, tmp_path):
    (tmp_path / "speed.md").write_text("mine")
    assert main(["bench", str(toy), *QUICK, "--save", str(tmp_path / "speed.md")]) == 2
    assert (tmp_path / "speed.md").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_found_before_measuring(toy, tmp_path, capsys):
    assert main(["bench", str(toy), *QUICK, "--save", str(tmp_path / "none" / "speed.md")]) == 4
    assert "speed.md" in capsys.readouterr().err


def test_verbose_prints_every_formula(toy, capsys):
    assert main(["bench", str(toy), *QUICK, "-v"]) == 0
    out = capsys.readouterr().out
    assert "decode [tok/s]: new tokens / sum of their gaps" in out
    assert "Median ± median absolute deviation of 2 rounds" in out


def test_the_model_may_stand_in_the_settings(toy, tmp_path, capsys):
    (tmp_path / "deepseek.toml").write_text(f"model = {str(toy)!r}\n")
    code, found = document(capsys, *QUICK)
    assert (code, found["arms"][0]["name"]) == (0, "toy")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["x", "--rounds", "0"],
        ["x", "--threads", "100000"],
        ["x", "--threads", "0"],
        ["x", "--save", "f.html"],
        ["x", "--context", "5"],
        ["x", "--sparse-attention", "tokens=1"],
    ],
)
def test_usage_errors(argv, capsys):
    code, found = document(capsys, *argv)
    assert (code, found["error"]["code"]) == (2, "usage-error")


def test_more_than_the_model_can_hold_is_a_usage_error(toy, tmp_path):
    with pytest.raises(UsageError, match="256"):
        bench([str(toy)], BenchSpec(depth="1000", new_tokens="1", rounds=1, starts=0, roofline=False), home=tmp_path)


@pytest.mark.parametrize(
    ("program", "kind", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", MemoryShort, "signal 9"),
        ("raise SystemExit('out of luck')", DeepseekError, "out of luck"),
    ],
)
def test_a_worker_that_dies_is_explained(tmp_path, monkeypatch, program, kind, said):
    monkeypatch.setattr(arms, "BOOT", program)
    with pytest.raises(kind, match=said):
        bench(["some"], SPEC, home=tmp_path)


def test_a_worker_that_dies_between_rounds_leaves_its_earlier_figures(tmp_path, monkeypatch):
    values = {"prefill@512": [5.0]}
    monkeypatch.setattr(
        arms, "BOOT", scripted.boot({"a": {"values": values, "stable": False}, "b": {"values": values, "dies_after": 1}})
    )
    found, error = bench(["a", "b"], BenchSpec(rounds=3, starts=0, roofline=False), home=tmp_path)
    assert isinstance(error, DeepseekError)
    assert "out of luck" in found["arms"][1]["error"]["message"]
    assert [len(arm["metrics"]["prefill@512"]["samples"]) for arm in found["arms"]] == [3, 1]
    assert found["arms"][1]["ratios"]["prefill@512"] == {"median": 1.0, "interval": None}
    assert found["arms"][0]["warm_up"]["stable"] is False


def test_the_folder_the_user_stands_in_lends_no_modules(toy, tmp_path):
    (tmp_path / "psutil.py").write_text("raise RuntimeError('taken from the working folder')")
    assert main(["bench", str(toy), *QUICK]) == 0
