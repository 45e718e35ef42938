from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from tests.commands.conftest import BUNDLE, QUANTIZED, Stock
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
Golden = Callable[[str, str], None]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_human(cli: Cli, stock: Stock, golden: Golden) -> None:
    golden("rm", cli("rm", QUANTIZED, "--yes").out + cli("rm", "toy", "--yes").out)
    assert stock.names() == {BUNDLE}
    assert (stock.toy / "model.safetensors").is_file()  # what lies elsewhere stays


def test_json(cli: Cli, stock: Stock) -> None:
    document = cli("rm", "toy", "--yes", "--json").json
    assert document.keys() == {"schema", "ok", "name", "path", "files_kept_at", "warnings"}
    assert (document["schema"], document["name"]) == ("deepseek.rm/1", "toy")
    assert (document["path"], document["files_kept_at"]) == (str(stock.folder("toy")), str(stock.toy))


def test_quiet_prints_the_name(cli: Cli, stock: Stock) -> None:
    assert cli("rm", "toy@int4", "--yes", "-q") == Outcome(0, f"{QUANTIZED}\n", "")


def test_nobody_is_asked_off_a_terminal(cli: Cli, stock: Stock) -> None:
    done = cli("rm", QUANTIZED)
    assert (done.code, "Agree with --yes" in done.err) == (2, True)
    assert cli("rm", QUANTIZED, "--json").json["error"]["code"] == "usage-error"
    assert len(stock.names()) == 3


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 2), ("是\n", 0, 2), ("n\n", 1, 3), ("\n", 1, 3), ("", 1, 3)])
def test_a_person_is_asked(cli: Cli, stock: Stock, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    done = cli("rm", QUANTIZED)
    assert (done.code, len(stock.names())) == (code, left)
    assert f"Delete {QUANTIZED}? [y/N]" in done.err


def test_what_is_not_there(cli: Cli, stock: Stock) -> None:
    done = cli("rm", "nothing", "--yes", "--json")
    assert (done.code, done.json["error"]["code"]) == (3, "model-not-found")
    assert len(stock.names()) == 3


def test_a_path_is_not_a_name(cli: Cli, stock: Stock) -> None:
    assert cli("rm", stock.toy, "--yes").code == 3
    assert stock.toy.is_dir()
