from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands.conftest import QUANTIZED, Stock
from tests.conftest import Outcome
from tests.toys import DEPLOYABLE, make_toy

Cli = Callable[..., Outcome]
Golden = Callable[[str, str], None]
KEYS = {"schema", "ok", "name", "path", "bytes", "unchanged", "tensors", "frontier", "report", "readers", "warnings"}


def test_human(cli: Cli, toy: Path, golden: Golden) -> None:
    first, again = cli("quantize", toy, "--int4"), cli("quantize", toy, "--int4")
    assert (first.code, again.code) == (0, 0)
    golden("quantize", first.out + again.out)
    assert "No scheme is named" not in first.err
    assert "MB to int4-g32" in first.err


def test_json(cli: Cli, toy: Path, tmp_path: Path) -> None:
    document = cli("quantize", toy, "--json").json
    assert document.keys() == KEYS
    assert (document["schema"], document["name"]) == ("deepseek.quantize/1", QUANTIZED)
    assert document["path"] == str(tmp_path / "home" / "models" / QUANTIZED)
    schemes = {t["name"]: t["scheme"] for t in document["tensors"]}
    assert schemes["model.layers.0.mlp.up_proj.weight"] == "int4-g32"
    assert schemes["model.norm.weight"] is None
    assert all(0 < t["error"] < 0.2 for t in document["tensors"] if t["scheme"])
    assert document["report"].keys() >= {"kl", "agreement", "perplexity", "bits_per_weight", "against", "text_sha256"}


def test_quiet_prints_the_name_or_with_o_the_path(cli: Cli, toy: Path) -> None:
    assert cli("quantize", toy, "--int8", "-q") == Outcome(0, "toy@int8-g32-balanced\n", "")
    assert cli("quantize", toy, "--int8", "-q", "-o", "out") == Outcome(0, "out\n", "")


def test_a_dry_run_shows_the_plan_and_writes_nothing(cli: Cli, toy: Path, tmp_path: Path, golden: Golden) -> None:
    done = cli("quantize", toy, "--scheme", "int4-g64", "--dry-run", "-o", "out")
    golden("quantize-dry-run", done.out)
    assert list(Path.cwd().iterdir()) == []
    assert not (tmp_path / "home").exists()


def test_the_same_again_is_up_to_date_and_something_else_is_not(cli: Cli, stock: Stock) -> None:
    before = stock.tree()
    assert cli("quantize", "toy", "--int4", "--json").json["unchanged"] is True
    assert stock.tree() == before
    assert cli("quantize", "toy", "--int4", "-q", "-o", "out", "--set", "report=false").code == 0
    refused = cli("quantize", "toy", "--int8", "-o", "out", "--set", "report=false")
    assert (refused.code, "exists and holds something else" in refused.err) == (2, True)
    assert cli("quantize", "toy", "--int8", "-o", "out", "--force", "--set", "report=false").code == 0


def test_a_goal_shows_what_other_sizes_would_come_to(cli: Cli, toy: Path) -> None:
    done = cli("quantize", toy, "--to-bpw", "5.5", "--dry-run")
    assert done.code == 0
    assert done.out.startswith("bits per weight")
    assert "No scheme is named" not in done.err and "Measuring what each of" in done.err
    document = cli("quantize", toy, "--to-bpw", "5.5", "--dry-run", "--json").json
    assert document["name"] == "toy@5.5bpw-balanced"
    (goal,) = (point for point in document["frontier"] if point["goal"])
    assert 5 < goal["bits_per_weight"] <= 5.5
    assert goal["size_bytes"] == document["bytes"]
    smaller = cli("quantize", toy, "--to-size", f"{document['bytes']}", "--dry-run", "--json").json
    assert smaller["bytes"] <= document["bytes"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to-bpw", "2"], "2bpw cannot be reached: from"),
        (["--to-size", "1GB"], "1000MB cannot be reached: from"),
        (["--to-bpw", "nan"], "--to-bpw nan is not between 0 and 16"),
        (["--to-bpw", "5", "--to-size", "50kB"], "--to-bpw and --to-size exclude each other"),
        (["--to-bpw", "5", "--int8"], "--int8 holds what --to-bpw is to choose"),
        (["--to-size", "50kB", "--scheme", "int4-g64"], "--scheme holds what --to-size is to choose"),
    ],
)
def test_a_goal_that_cannot_be_met_is_a_usage_error(cli: Cli, toy: Path, words: list[str], said: str) -> None:
    done = cli("quantize", toy, *words)
    assert done.code == 2
    assert said in done.err


def test_no_scheme_is_int4_and_says_so(cli: Cli, toy: Path) -> None:
    done = cli("quantize", toy, "--dry-run")
    assert "No scheme is named: --int4." in done.err


def test_the_projects_newest_source_is_taken(cli: Cli, stock: Stock) -> None:
    Path("deepseek.toml").write_text(f'model = "{stock.toy}"\n[quantize]\nscheme = "int4-g64"\n')
    done = cli("quantize", "--json", "--set", "report=false")
    assert done.json["name"] == "toy@int4-g64-balanced"
    assert "Using toy, the newest result" in done.err  # and not what was quantized already


def test_a_quantized_source_is_worked_on_and_said(cli: Cli, stock: Stock) -> None:
    done = cli("quantize", QUANTIZED, "--int8", "--dry-run")
    assert f"{QUANTIZED} is quantized already" in done.err


def test_strict_turns_a_fallback_into_an_exit_code(cli: Cli, tmp_path: Path) -> None:
    make_toy(tmp_path / "odd", **{**DEPLOYABLE, "intermediate_size": 50})
    words = ("quantize", tmp_path / "odd", "--int4", "-o", "out", "--set", "report=false", "--json")
    done = cli(*words)
    assert done.code == 0
    assert any("down_proj" in warning and "50 inputs" in warning for warning in done.json["warnings"])
    strict = cli(*words, "--strict", "--force")
    assert (strict.code, strict.json["ok"], strict.json["error"]["code"]) == (1, False, "answer-is-no")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere"], 3, "no model nowhere"),
        (["toy", "--int4", "--int8"], 2, "--int4 and --int8 exclude each other"),
        (["toy", "--scheme", "int5"], 2, "int5"),
        (["toy", "--scheme", "int4-g64", "--group", "32"], 2, "--group and --scheme"),
        (["toy", "--rule", "lm_head"], 2, "not of the form PATTERN=SCHEME"),
        (["toy", "--rule", "*.nothing=int8"], 2, "matches no weight"),
        (["toy", "--rule", "*.q_proj=int8"], 2, "one product computes them together"),
        (["toy@int4-g32-balanced+cpu"], 2, "is a bundle for the target cpu"),
        (["toy", "-o", "TOY/inside"], 2, "lies inside the model's own folder"),
        (["toy", "--level", "most"], 2, "--level cannot be 'most'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(cli: Cli, stock: Stock, words: list[str], code: int, says: str) -> None:
    before = stock.tree()
    done = cli("quantize", *(word.replace("TOY", str(stock.toy)) for word in words), "--json")
    assert (done.code, done.json["ok"], done.json["error"]["exit_code"]) == (code, False, code)
    assert says in done.json["error"]["message"]
    assert done.json["error"]["hint"]
    assert stock.tree() == before


def test_a_nan_names_its_tensor_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "nan"
    make_toy(folder, **DEPLOYABLE)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    done = cli("quantize", folder, "--int4", "-o", "out", "--json")
    assert (done.code, done.json["error"]["code"]) == (3, "model-corrupt")
    assert "model.layers.1.mlp.up_proj.weight holds a NaN" in done.json["error"]["message"]
    assert list(Path.cwd().iterdir()) == []


def test_the_manifest_tells_the_whole_way(stock: Stock) -> None:
    manifest = json.loads((stock.folder(QUANTIZED) / "deepseek.json").read_text(encoding="utf-8"))
    (step,) = manifest["steps"]
    assert (step["command"], step["given"], step["resolved"]["scheme"]) == ("quantize", {"int4": True}, "int4-g32")
    assert manifest["source"]["ref"] == str(stock.toy)
    assert manifest["parent"] and manifest["report"]["kl"] > 0
