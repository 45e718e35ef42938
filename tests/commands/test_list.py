from __future__ import annotations

import os
from collections.abc import Callable

from tests.commands.conftest import BUNDLE, QUANTIZED, Stock
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
Golden = Callable[[str, str], None]


def test_human(cli: Cli, stock: Stock, golden: Golden) -> None:
    golden("list", cli("list").out)


def test_an_empty_store(cli: Cli, golden: Golden) -> None:
    golden("list-empty", cli("list").out)
    assert cli("list", "-q") == Outcome(0, "", "")
    assert cli("list", "--json").json["models"] == []


def test_json(cli: Cli, stock: Stock) -> None:
    document = cli("list", "--json").json
    assert document.keys() == {"schema", "ok", "home", "models", "warnings"}
    assert (document["schema"], document["home"]) == ("deepseek.list/1", str(stock.home))
    assert all(model.keys() == {"name", "kind", "bytes", "kl", "verified"} for model in document["models"])
    assert [(m["name"], m["kind"], m["verified"]) for m in document["models"]] == [
        ("toy", "model", None),
        (QUANTIZED, "model", None),
        (BUNDLE, "bundle", "L3"),
    ]


def test_quiet_prints_one_name_a_line_oldest_first(cli: Cli, stock: Stock) -> None:
    assert cli("list", "-q").out == f"toy\n{QUANTIZED}\n{BUNDLE}\n"


def test_what_is_half_written_is_not_listed(cli: Cli, stock: Stock) -> None:
    stock.folder(QUANTIZED).rename(stock.folder(f"{QUANTIZED}.staging-1"))
    (stock.folder("stray")).mkdir()
    assert cli("list", "-q").out == f"toy\n{BUNDLE}\n"


def test_a_damaged_entry_is_listed_refused_and_removable(cli: Cli, stock: Stock) -> None:
    (stock.folder(QUANTIZED) / "deepseek.json").write_text("{")
    listed = cli("list", "--json")
    assert [m["kind"] for m in listed.json["models"] if m["name"] == QUANTIZED] == ["damaged"]
    assert cli("show", QUANTIZED).code == 3
    assert cli("rm", QUANTIZED, "--yes").code == 0
    assert not stock.folder(QUANTIZED).exists()


def test_an_argument_is_a_mistake(cli: Cli) -> None:
    done = cli("list", "toy")
    assert (done.code, "takes no argument 'toy'" in done.err) == (2, True)


def test_work_that_was_stopped_is_listed_and_can_be_removed(cli: Cli, stock: Stock) -> None:
    work = stock.folder("toy@int4-g32-best.work")
    (work / "codes-00000").mkdir(parents=True)
    (work / "work.json").write_text("{}", encoding="utf-8")
    (work / "codes-00000" / "model.safetensors").write_bytes(bytes(1000))
    assert cli("list", "--json").json["models"][-1] == {
        "name": work.name,
        "kind": "unfinished",
        "bytes": 1002,
        "kl": None,
        "verified": None,
    }
    assert cli("show", work.name).code == 3
    (work / "pid").write_text(str(os.getppid()), encoding="utf-8")
    assert (busy := cli("rm", work.name, "--yes")).code == 2 and "is at work on" in busy.err
    (work / "pid").unlink()
    assert cli("rm", work.name, "--yes", "-q") == Outcome(0, f"{work.name}\n", "")
    assert not work.exists()
