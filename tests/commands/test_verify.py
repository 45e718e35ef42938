from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.conftest import BUNDLE, QUANTIZED, Stock
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
Golden = Callable[[str, str], None]


def test_human(cli: Cli, stock: Stock, golden: Golden) -> None:
    good = cli("verify", QUANTIZED)
    damage(stock.folder(QUANTIZED) / "model.safetensors")
    (stock.folder(QUANTIZED) / "tokenizer.json").unlink()
    bad = cli("verify", QUANTIZED)
    assert (good.code, bad.code) == (0, 1)
    golden("verify", good.out + bad.out)


def test_a_bundle_is_run_again(cli: Cli, stock: Stock, golden: Golden) -> None:
    done = cli("verify", BUNDLE, "--threads", "1")
    assert done.code == 0
    golden("verify-bundle", done.out)


def test_json(cli: Cli, stock: Stock) -> None:
    document = cli("verify", QUANTIZED, "--json").json
    assert document.keys() == {"schema", "ok", "name", "level", "files", "warnings"}
    assert (document["schema"], document["level"]) == ("deepseek.verify/1", "L0")
    assert {file["state"] for file in document["files"]} == {"ok"}
    bundle = cli("verify", BUNDLE, "--threads", "1", "--json").json
    assert bundle.keys() == {"schema", "ok", "name", "level", "files", "runtime", "failed", "checks", "warnings"}
    assert (bundle["level"], bundle["failed"]) == ("L3", False)


def test_quick_looks_at_bytes_only(cli: Cli, stock: Stock) -> None:
    document = cli("verify", BUNDLE, "--quick", "--json").json
    assert (document["level"], "checks" in document) == ("L0", False)


@pytest.mark.parametrize(("name", "level"), [("toy", "L0"), (QUANTIZED, "L0")])
def test_quiet_prints_the_level(cli: Cli, stock: Stock, name: str, level: str) -> None:
    assert cli("verify", name, "-q") == Outcome(0, f"{level}\n", "")


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda file: file.unlink(), "missing"),
        (lambda file: file.write_bytes(file.read_bytes() + b" "), "size differs"),
        (lambda file: damage(file), "content differs"),
    ],
    ids=["missing", "longer", "changed"],
)
def test_what_is_wrong_with_a_file(cli: Cli, stock: Stock, change: Callable[[Path], None], state: str) -> None:
    change(stock.folder(QUANTIZED) / "tokenizer_config.json")
    done = cli("verify", QUANTIZED, "--json")
    assert (done.code, done.json["ok"], done.json["level"]) == (1, False, None)
    wrong = [file for file in done.json["files"] if file["state"] != "ok"]
    assert [(file["path"], file["state"]) for file in wrong] == [("tokenizer_config.json", state)]


def test_a_manifest_cannot_point_outside(cli: Cli, stock: Stock, tmp_path: Path) -> None:
    (stock.home / "secret").write_text("x")
    manifest = stock.folder(QUANTIZED) / "deepseek.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"path": "tokenizer.json"', '"path": "../../secret"'), encoding="utf-8")
    done = cli("verify", QUANTIZED, "--json")
    assert done.code == 1
    assert {"../../secret": "outside the folder"}.items() <= {f["path"]: f["state"] for f in done.json["files"]}.items()


@pytest.mark.parametrize(
    ("name", "code", "says"), [("nowhere", 3, "no model nowhere"), ("TOY", 3, "has no manifest to verify against")]
)
def test_mistakes(cli: Cli, stock: Stock, name: str, code: int, says: str) -> None:
    done = cli("verify", name.replace("TOY", str(stock.toy)), "--json")
    assert (done.code, done.json["error"]["exit_code"]) == (code, code)
    assert says in done.json["error"]["message"] and done.json["error"]["hint"]


def test_a_bundle_whose_model_is_gone_still_has_its_bytes(cli: Cli, stock: Stock) -> None:
    cli("rm", QUANTIZED, "--yes")
    done = cli("verify", BUNDLE, "--json")
    assert (done.code, done.json["error"]["code"]) == (3, "model-not-found")
    assert cli("verify", BUNDLE, "--quick").code == 0


def damage(file: Path) -> None:
    """One bit, in place."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
