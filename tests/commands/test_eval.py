from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.conftest import BUNDLE, QUANTIZED, Stock
from tests.conftest import Outcome
from tests.toys import DEPLOYABLE, make_toy

Cli = Callable[..., Outcome]
Golden = Callable[[str, str], None]
REPORT = {
    "against",
    "kl",
    "kl_p99",
    "kl_p999",
    "agreement",
    "perplexity",
    "reference_perplexity",
    "accuracy",
    "reference_accuracy",
    "accuracy_loss_most",
    "texts",
    "tokens",
    "text",
    "text_sha256",
    "window",
}
FEW = ("--windows", "2")


@pytest.mark.parametrize("name", [QUANTIZED, BUNDLE])
def test_human(cli: Cli, stock: Stock, golden: Golden, name: str) -> None:
    done = cli("eval", name, *FEW)
    assert done.code == 0
    golden("eval", done.out)  # a model's and its bundle's read alike


def test_json(cli: Cli, stock: Stock) -> None:
    document = cli("eval", QUANTIZED, *FEW, "--json").json
    assert document.keys() == {"schema", "ok", "report", "gates", "warnings"}
    assert document["schema"] == "deepseek.eval/1"
    report = document["report"]
    assert report.keys() == REPORT
    assert (report["against"], report["tokens"], report["window"]) == ("toy", 1024, 256)
    assert 0 < report["kl"] < report["kl_p99"]


def test_quiet_prints_the_divergence(cli: Cli, stock: Stock) -> None:
    done = cli("eval", QUANTIZED, *FEW, "-q")
    assert done.err == ""
    assert float(done.out) > 0


def test_a_model_against_itself_differs_in_nothing(cli: Cli, stock: Stock) -> None:
    report = cli("eval", "toy", "--against", stock.toy, *FEW, "--json").json["report"]
    assert (report["kl"], report["agreement"]) == (0, 1)
    assert report["perplexity"] == report["reference_perplexity"]


@pytest.mark.parametrize(
    ("gate", "code", "says"),
    [
        (("--max-kld", "0.000001"), 1, "is above --max-kld"),
        (("--max-kld", "100"), 0, ""),
        (("--max-accuracy-loss", "-1"), 1, "is above --max-accuracy-loss"),
        (("--max-accuracy-loss", "1"), 0, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_gates(cli: Cli, stock: Stock, gate: tuple[str, str], code: int, says: str) -> None:
    done = cli("eval", QUANTIZED, *FEW, *gate)
    assert (done.code, says in done.out) == (code, True)
    document = cli("eval", QUANTIZED, *FEW, *gate, "--json").json
    assert (document["ok"], len(document["gates"])) == (code == 0, code)


def test_a_text_of_ones_own(cli: Cli, stock: Stock) -> None:
    Path("own.txt").write_text("A text of my own. " * 20, encoding="utf-8")
    report = cli("eval", QUANTIZED, "--text", "own.txt", "--json").json["report"]
    assert (report["text"], report["tokens"]) == ("own.txt", 256)


def test_o_saves_what_would_be_shown(cli: Cli, stock: Stock) -> None:
    done = cli("eval", QUANTIZED, *FEW, "-o", "report.json", "--json")
    assert (done.code, done.out) == (0, "")
    assert '"schema": "deepseek.eval/1"' in Path("report.json").read_text(encoding="utf-8")
    assert cli("eval", QUANTIZED, *FEW, "-o", "report.json").code == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere"], 3, "no model nowhere"),
        (["toy"], 2, "was not made from another model here"),
        ([QUANTIZED, "--against", "nowhere"], 3, "no model nowhere"),
        ([QUANTIZED, "--text", "nothing.txt"], 2, "no file nothing.txt"),
        ([QUANTIZED, "--text", "short.txt"], 2, "fewer than 256 tokens"),
        ([QUANTIZED, "--text", "latin.txt"], 2, "latin.txt"),
        ([QUANTIZED, "--windows", "0"], 2, "--windows"),
        ([QUANTIZED, "--windows", "-1"], 2, "--windows"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(cli: Cli, stock: Stock, words: list[str], code: int, says: str) -> None:
    Path("short.txt").write_text("short", encoding="utf-8")
    Path("latin.txt").write_bytes("é".encode("latin-1") * 4000)
    done = cli("eval", *words, "--json")
    assert (done.code, done.json["error"]["exit_code"]) == (code, code)
    assert says in done.json["error"]["message"] and done.json["error"]["hint"]


def test_models_of_different_vocabularies_are_not_compared(cli: Cli, stock: Stock, tmp_path: Path) -> None:
    make_toy(tmp_path / "other", **{**DEPLOYABLE, "vocab_size": 300})
    done = cli("eval", QUANTIZED, "--against", tmp_path / "other")
    assert (done.code, "vocabularies of 300 and 272 tokens" in done.err) == (2, True)


def test_a_source_that_is_gone_is_named(cli: Cli, stock: Stock, tmp_path: Path) -> None:
    manifest = stock.folder(QUANTIZED) / "deepseek.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(str(stock.toy), str(tmp_path / "gone")), encoding="utf-8")
    done = cli("eval", QUANTIZED)
    assert (done.code, "which is gone" in done.err, "--against MODEL" in done.err) == (3, True, True)
