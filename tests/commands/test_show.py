from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.conftest import BUNDLE, QUANTIZED, Stock
from tests.conftest import Outcome
from tests.gguf_toys import write_toy
from tests.toys import DEPLOYABLE, make_toy

Cli = Callable[..., Outcome]
Golden = Callable[[str, str], None]
KEYS = {
    "schema",
    "ok",
    "name",
    "kind",
    "path",
    "architecture",
    "bytes",
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "vocabulary",
    "context",
    "config",
    "tensors",
    "manifest",
    "warnings",
}


@pytest.mark.parametrize(("name", "file"), [("toy", "show"), (QUANTIZED, "show-quantized"), (BUNDLE, "show-bundle")])
def test_human(cli: Cli, stock: Stock, golden: Golden, name: str, file: str) -> None:
    done = cli("show", name)
    assert done.code == 0
    golden(file, done.out)


@pytest.mark.parametrize("name", ["toy", QUANTIZED, BUNDLE])
def test_json(cli: Cli, stock: Stock, name: str) -> None:
    document = cli("show", name, "--json").json
    assert document.keys() == KEYS
    assert (document["schema"], document["name"], document["layers"]) == ("deepseek.show/1", name, 2)
    assert (document["kind"], document["manifest"]["name"]) == ("bundle" if name == BUNDLE else "model", name)


def test_quiet_prints_where_it_lies(cli: Cli, stock: Stock) -> None:
    assert cli("show", "toy", "-q").out == f"{stock.toy}\n"
    assert cli("show", QUANTIZED, "-q").out == f"{stock.folder(QUANTIZED)}\n"


def test_a_shortened_name_is_enough_where_it_is_the_only_one(cli: Cli, stock: Stock) -> None:
    assert cli("show", "toy@int4+cpu", "--json").json["name"] == BUNDLE
    assert cli("show", "t@int4", "--json").json["name"] == QUANTIZED


def test_a_gguf_file(cli: Cli, tmp_path: Path) -> None:
    path = write_toy(tmp_path / "toy.gguf", make_toy(tmp_path / "toy", tokenizer=False, **DEPLOYABLE), "llama")
    document = cli("show", path, "--json").json
    assert (document["name"], document["path"], document["architecture"]) == ("toy", str(path), "llama")
    assert document["tensors"].keys() == {"f16", "f32"}


def test_o_saves_what_would_be_shown(cli: Cli, stock: Stock) -> None:
    shown = cli("show", "toy").out
    assert cli("show", "toy", "-o", "toy.txt") == Outcome(0, "", "")
    assert Path("toy.txt").read_text(encoding="utf-8") == shown


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("nowhere", 3, "no model nowhere"),
        ("hf:org/name", 3, "The config of hf:org/name is not on this machine"),
        ("empty", 3, "config.json is missing"),
        ("nothing.gguf", 3, "no model nothing.gguf"),
    ],
)
def test_mistakes(cli: Cli, stock: Stock, name: str, code: int, says: str) -> None:
    Path("empty").mkdir()
    done = cli("show", name, "--offline", "--json")
    assert (done.code, done.json["error"]["exit_code"]) == (code, code)
    assert says in done.json["error"]["message"] and done.json["error"]["hint"]


def test_a_name_that_could_be_several_names_them(cli: Cli, stock: Stock) -> None:
    stock.folder("toy").rename(stock.folder("tot"))
    manifest = stock.folder("tot") / "deepseek.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"name": "toy"', '"name": "tot"'), encoding="utf-8")
    assert cli("show", "to", "-q").code == 0
    cli("pull", stock.toy, "-q")
    done = cli("show", "to")
    assert (done.code, "to could be any of tot, toy." in done.err) == (2, True)
