from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deepseek_cli.compress import candidates, engine
from deepseek_cli.compress.plan import REPORT_BYTES
from deepseek_cli.quantize import distill, method
from tests.commands.conftest import Stock
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
Golden = Callable[[str, str], None]
KEYS = {"schema", "ok", "name", "path", "goal_bytes", "bytes", "met", "frontier", "decisions", "report", "html", "warnings"}


def test_human(cli: Cli, toy: Path, golden: Golden) -> None:
    done = cli("compress", toy, "--to-size", "100kB", "-o", "out")
    assert done.code == 0
    golden("compress", done.out)


def test_json(cli: Cli, toy: Path) -> None:
    document = cli("compress", toy, "--smaller", "60%", "-o", "out", "--json").json
    assert document.keys() == KEYS
    assert (document["schema"], document["met"]) == ("deepseek.compress/1", True)
    assert document["bytes"] == sum(f.stat().st_size for f in Path("out").iterdir()) <= document["goal_bytes"]
    sizes = [candidate["size_bytes"] for candidate in document["frontier"]]
    assert sizes == sorted(sizes, reverse=True)
    assert all(
        candidate["fits"] == (size <= document["goal_bytes"]) for candidate, size in zip(document["frontier"], sizes, strict=True)
    )


def test_the_closest_is_made_and_the_answer_is_no(cli: Cli, toy: Path) -> None:
    done = cli("compress", toy, "--to-size", "10kB", "-o", "out", "--json")
    assert (done.code, done.json["ok"], done.json["met"]) == (1, False, False)
    assert done.json["error"]["code"] == "answer-is-no"
    assert Path("out", "model.safetensors").is_file()
    assert "is the closest, and above the goal" in cli("compress", toy, "--to-size", "10kB", "-o", "other").out


def test_quiet_prints_the_name_or_with_o_the_path(cli: Cli, toy: Path) -> None:
    assert cli("compress", toy, "--to-size", "1MB", "-q") == Outcome(0, "toy@int8-g32-1MB\n", "")
    assert cli("compress", toy, "--to-size", "1MB", "-q", "-o", "out") == Outcome(0, "out\n", "")


def test_a_dry_run_writes_nothing(cli: Cli, toy: Path, tmp_path: Path) -> None:
    done = cli("compress", toy, "--to-size", "100kB", "--dry-run")
    assert done.code == 0 and "within the goal" in done.out
    assert not (tmp_path / "home").exists()


def test_the_same_again_changes_nothing(cli: Cli, stock: Stock) -> None:
    assert cli("compress", "toy", "--to-size", "1MB", "-q").code == 0
    before = stock.tree()
    assert cli("compress", "toy", "--to-size", "1MB", "-q").out == "toy@int8-g32-1MB\n"
    assert stock.tree() == before


def test_a_page_shows_what_was_made_now_or_before(cli: Cli, toy: Path) -> None:
    words = ("compress", toy, "--to-size", "1MB", "-o", "out", "--html", "page.html", "--json")
    assert cli(*words).json["html"] == "page.html"
    first = Path("page.html").read_text(encoding="utf-8")
    assert cli(*words).code == 0 and Path("page.html").read_text(encoding="utf-8") == first
    Path("page.html").write_text("mine", encoding="utf-8")
    refused = cli(*words)
    assert refused.code == 2 and "is not a report" in refused.json["error"]["message"]


def test_layers_and_channels_go_and_the_result_opens_everywhere(cli: Cli, toy: Path) -> None:
    done = cli("compress", toy, "--to-size", "1MB", "--steps", "depth=50%,width=30%,heads=50%", "-o", "out", "--json").json
    config = json.loads(Path("out", "config.json").read_text(encoding="utf-8"))
    fields = ("num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    assert done["met"] and [config[field] for field in fields] == [1, 64, 2, 1]
    assert {decision["step"] for decision in done["decisions"]} == {"depth", "width", "heads"}
    assert cli("deploy", "out", "--target", "cpu", "--verify", "logits", "-o", "bundle").code == 0
    assert cli("deploy", "out", "--target", "metal", "-o", "metal").code == 0
    again = cli("compress", toy, "--to-size", "1MB", "--steps", "depth=50%,width=30%,heads=50%", "-o", "out", "--json").json
    assert again["report"] == done["report"] and not list(Path().glob("*.staging-*"))


def test_a_dry_run_with_steps_writes_nothing_either(cli: Cli, toy: Path, tmp_path: Path) -> None:
    done = cli("compress", toy, "--to-size", "1MB", "--steps", "width", "--dry-run", "--json").json
    assert done["met"] and done["frontier"][0]["steps"] == "width=12.5%"
    assert not (tmp_path / "home").exists()


def test_steps_into_a_store_that_is_new(cli: Cli, toy: Path) -> None:
    done = cli("compress", toy, "--to-size", "1MB", "--steps", "depth=50%", "-q")
    assert (done.code, done.out) == (0, "toy@compressed-1MB\n")
    assert cli("show", "toy@compressed-1MB").code == 0


def test_a_size_that_fits_a_device_leaves_room_for_what_runs_it(cli: Cli, toy: Path) -> None:
    assert 0 < cli("compress", toy, "--fit", "300MB", "--dry-run", "--json").json["goal_bytes"] < 300e6
    assert "leaves" in cli("compress", toy, "--fit", "1MB", "--json").json["error"]["message"]


def test_schemes_are_mixed_where_no_rung_of_the_ladder_fills_the_goal(cli: Cli, toy: Path) -> None:
    rungs = cli("compress", toy, "--to-size", "1MB", "--dry-run", "--json").json["frontier"]
    goal = (rungs[2]["size_bytes"] + rungs[1]["size_bytes"]) // 2
    done = cli("compress", toy, "--to-size", f"{goal}B", "-o", "out", "--json").json
    mixed = next(c for c in done["frontier"] if c["measured_kl"] == done["report"]["kl"])
    others = [c["kl"] for c in done["frontier"] if c["fits"] and c["scheme"] != "mixed"]
    assert done["met"] and mixed["scheme"] == "mixed" and mixed["kl"] <= min(others)
    assert mixed["measured_bytes"] <= done["bytes"]


def test_a_missed_gate_is_tried_again_with_more_work_and_the_best_is_kept(
    cli: Cli, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method, "QAT", replace(method.QAT, tokens=4_096, steps=8))
    done = cli("compress", toy, "--to-size", "100kB", "--max-kld", "0", "-o", "out", "--json")
    most = done.json["goal_bytes"] - REPORT_BYTES
    tried = [c for c in done.json["frontier"] if c["measured_kl"] is not None]
    assert done.code == 1 and {c["level"] for c in tried} == {"balanced", "best", "qat"}
    assert done.json["report"]["kl"] == min(c["measured_kl"] for c in tried if c["measured_bytes"] <= most)
    assert not Path("out.work").exists()


def test_more_work_that_memory_has_no_room_for_is_left_out(cli: Cli, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "free_bytes", lambda: 0)
    done = cli("compress", toy, "--to-size", "100kB", "--max-kld", "0", "-o", "out", "--json")
    assert done.code == 1 and "Distilling toy needs" in done.err and Path("out", "model.safetensors").is_file()
    assert {c["level"] for c in done.json["frontier"] if c["measured_kl"] is not None} == {"balanced", "best"}
    assert not Path("out.work").exists()


def test_more_work_that_there_is_no_time_for_is_left_out_and_named(cli: Cli, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "seconds_for", lambda handle, method: 7200.0 if method.steps else 0.0)
    monkeypatch.setattr(engine, "search", lambda *asked: None)
    done = cli("compress", toy, "--to-size", "100kB", "--max-kld", "0", "--time", "1h", "-o", "out", "--json")
    assert done.code == 1 and "Level qat would take about 120 minutes, and" in " ".join(done.err.split())
    assert "qat" not in {c["level"] for c in done.json["frontier"] if c["measured_kl"] is not None}


def test_a_gate_on_quality_says_no(cli: Cli, toy: Path) -> None:
    done = cli("compress", toy, "--to-size", "1MB", "--max-kld", "0", "-o", "out", "--json")
    assert (done.code, done.json["met"]) == (1, True) and Path("out", "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["toy"], 2, "--smaller or --to-size or --fit"),
        (["toy", "--smaller", "85%", "--to-size", "1MB"], 2, "--to-size or --fit, one of them"),
        (["toy", "--smaller", "much"], 2, "--smaller much is not a percentage"),
        (["toy", "--smaller", "100%"], 2, "is not a percentage"),
        (["toy", "--smaller", "nan"], 2, "is not a percentage"),
        (["toy", "--to-size", "huge"], 2, "--to-size cannot be 'huge'"),
        (["toy", "--to-size", "1MB", "--steps", "experts"], 2, "toy has no experts"),
        (["toy", "--to-size", "1MB", "--steps", "mtp"], 2, "no layer that drafts"),
        (["toy", "--to-size", "1MB", "--steps", "depht"], 2, "no step named 'depht'"),
        (["toy", "--to-size", "1MB", "--steps", "depth=all"], 2, "is a percentage between 0 and 100"),
        (["toy", "--to-size", "1MB", "--steps", "depth,depth"], 2, "names depth twice"),
        (["toy", "--to-size", "1MB", "--time", "soon"], 2, "--time soon is not a duration"),
        (["toy", "--fit", "abacus"], 2, "neither a device nor a size"),
        (["toy", "--fit", "8GB", "--to-size", "1MB"], 2, "--to-size or --fit, one of them"),
        (["toy", "--to-size", "1MB", "--calibration", "short.txt"], 2, "windows of 256 tokens, and calibration needs 4"),
        (["toy", "--to-size", "1MB", "--text", "nowhere.txt"], 2, "no file nowhere.txt"),
        (["toy", "--to-size", "1MB", "--text", "a.txt", "--calibration", "a.txt"], 2, "not judged by what it was fitted to"),
        (["nowhere", "--smaller", "85%"], 3, "no model nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(cli: Cli, stock: Stock, words: list[str], code: int, says: str) -> None:
    Path("short.txt").write_text("Too little to say anything.\n", encoding="utf-8")
    done = cli("compress", *words, "--json")
    assert (done.code, done.json["error"]["exit_code"]) == (code, code)
    assert says in done.json["error"]["message"]
    assert len(stock.names()) == 3


def test_a_device_that_is_almost_named_is_suggested(cli: Cli, toy: Path) -> None:
    error = cli("compress", toy, "--fit", "iphone 61", "--json").json["error"]
    assert error["exit_code"] == 2 and "iPhone 16, 8 GB" in error["hint"]


def test_steps_without_shares_choose_them(cli: Cli, toy: Path) -> None:
    done = cli("compress", toy, "--to-size", "120kB", "--steps", "width,depth", "-o", "out", "--json").json
    tried = [c for c in done["frontier"] if c["measured_kl"] is not None]
    names = list(dict.fromkeys(c["steps"] for c in done["frontier"]))
    assert done["met"] and tried and names[0] == "depth=10%,width=12.5%"
    assert {d["step"] for d in done["decisions"]} == {"depth", "width"}
    assert done["report"]["kl"] == min(c["measured_kl"] for c in tried)


def test_a_level_is_that_of_every_plan(cli: Cli, toy: Path) -> None:
    done = cli("compress", toy, "--to-size", "100kB", "--level", "fast", "-o", "out", "--json").json
    assert {c["level"] for c in done["frontier"]} == {"fast"}
    record = json.loads(Path("out", "deepseek.json").read_text(encoding="utf-8"))
    assert next(s["resolved"]["algorithm"] for s in record["steps"] if s["command"] == "quantize") == "imatrix"


def test_three_bits_are_for_sizes_that_four_do_not_reach_and_not_for_devices(cli: Cli, toy: Path) -> None:
    rungs = cli("compress", toy, "--to-size", "1MB", "--dry-run", "--json").json["frontier"]
    least = rungs[-1]["size_bytes"]
    assert not any("int3" in c["scheme"] for c in rungs)
    done = cli("compress", toy, "--to-size", f"{least - 2000}B", "--level", "fast", "-o", "out", "--json").json
    schemes = set(json.loads(Path("out", "deepseek.json").read_text(encoding="utf-8"))["quantization"].values())
    assert done["met"] and any(scheme.startswith("int3") for scheme in schemes)
    assert done["frontier"][-1]["scheme"] == "int3-g128"
    assert cli("deploy", "out", "--target", "cpu", "--verify", "logits", "-o", "bundle").code == 0
