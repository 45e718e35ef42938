from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deepseek_cli.deploy import TARGETS, engine
from tests.commands.conftest import BUNDLE, QUANTIZED, Stock
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
Golden = Callable[[str, str], None]
KEYS = {"schema", "ok", "name", "path", "target", "context", "unchanged", "verification", "bytes", "warnings"}


def test_human(cli: Cli, stock: Stock, golden: Golden) -> None:
    first, again = (cli("deploy", QUANTIZED, "--target", "cpu", "-o", "out", "--threads", "1") for _ in range(2))
    assert (first.code, again.code) == (0, 0)
    golden("deploy", first.out + again.out)


def test_json(cli: Cli, stock: Stock) -> None:
    document = cli("deploy", QUANTIZED, "--context", "64", "--verify", "weights", "-o", "out", "--json").json
    assert document.keys() == KEYS
    assert (document["schema"], document["name"], document["target"], document["context"]) == (
        "deepseek.deploy/1",
        BUNDLE,
        "cpu",
        64,
    )
    assert (document["path"], document["verification"]["level"], document["verification"]["failed"]) == ("out", "L1", False)
    assert [(check["level"], check["ok"]) for check in document["verification"]["checks"]] == [("L0", True), ("L1", True)]
    assert document["bytes"] == sum(f.stat().st_size for f in Path("out").iterdir() if f.name != "deepseek.json")


def test_quiet_prints_the_name_or_with_o_the_path(cli: Cli, stock: Stock) -> None:
    assert cli("deploy", QUANTIZED, "-q").out == f"{BUNDLE}\n"
    assert cli("deploy", QUANTIZED, "--verify", "structure", "-q", "-o", "out") == Outcome(0, "out\n", "")


def test_a_dry_run_writes_nothing(cli: Cli, stock: Stock) -> None:
    before = stock.tree()
    done = cli("deploy", "toy", "--dry-run")
    assert (done.code, "toy+cpu would be written to" in done.out) == (0, True)
    assert stock.tree() == before


def test_the_same_again_is_up_to_date(cli: Cli, stock: Stock) -> None:
    before = stock.tree()
    assert cli("deploy", QUANTIZED, "--target", "cpu", "--json").json["unchanged"] is True
    assert stock.tree() == before
    (stock.folder(BUNDLE) / "model.onnx.data").unlink()
    assert cli("deploy", QUANTIZED, "--target", "cpu").code == 2  # incomplete, and not overwritten unasked
    assert cli("deploy", QUANTIZED, "--target", "cpu", "--verify", "structure", "--force").code == 0


def test_the_targets(cli: Cli, golden: Golden) -> None:
    golden("deploy-list", cli("deploy", "--list").out)
    assert cli("deploy", "--list", "-q").out == "".join(f"{name}\n" for name in TARGETS)
    assert [target["name"] for target in cli("deploy", "--list", "--json").json["targets"]] == [*TARGETS]


def test_a_verification_that_fails_is_an_answer_and_is_recorded(cli: Cli, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    check = {"level": "L1", "name": "weights", "result": "1 of 9 tensors differ", "ok": False}
    failed = {"level": "L0", "runtime": "x", "failed": True, "checks": [check]}
    monkeypatch.setattr(engine, "verify", lambda *_: failed)
    done = cli("deploy", QUANTIZED, "-o", "out", "--json")
    assert (done.code, done.json["ok"], done.json["error"]["code"]) == (1, False, "answer-is-no")
    assert done.json["verification"] == failed
    assert json.loads(Path("out", "deepseek.json").read_text(encoding="utf-8"))["verification"] == failed


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["toy", "--target", "metal"], 2, "no target named 'metal'"),
        (["toy", "--context", "257"], 2, "--context 257 is more than the 256 tokens"),
        (["toy", "--verify", "everything"], 2, "--verify cannot be 'everything'"),
        (["nowhere"], 3, "no model nowhere"),
        ([BUNDLE], 2, "is a bundle for the target cpu"),
        (["TOY", "-o", "TOY/inside"], 2, "lies inside the model's own folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(cli: Cli, stock: Stock, words: list[str], code: int, says: str) -> None:
    before = stock.tree()
    done = cli("deploy", *(word.replace("TOY", str(stock.toy)) for word in words), "--json")
    assert (done.code, done.json["error"]["exit_code"]) == (code, code)
    assert says in done.json["error"]["message"] and done.json["error"]["hint"]
    assert stock.tree() == before


def test_an_unknown_target_lists_the_known(cli: Cli, stock: Stock) -> None:
    assert f"Targets are: auto, {', '.join(TARGETS)}." in cli("deploy", "toy", "--target", "metal").err
