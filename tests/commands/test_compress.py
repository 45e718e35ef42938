from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.conftest import Stock
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
Golden = Callable[[str, str], None]
KEYS = {"schema", "ok", "name", "path", "goal_bytes", "bytes", "met", "frontier", "report", "warnings"}


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


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["toy"], 2, "--smaller or --to-size"),
        (["toy", "--smaller", "85%", "--to-size", "1MB"], 2, "--smaller or --to-size, one of them"),
        (["toy", "--smaller", "much"], 2, "--smaller much is not a percentage"),
        (["toy", "--smaller", "100%"], 2, "is not a percentage"),
        (["toy", "--smaller", "nan"], 2, "is not a percentage"),
        (["toy", "--to-size", "huge"], 2, "--to-size cannot be 'huge'"),
        (["nowhere", "--smaller", "85%"], 3, "no model nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(cli: Cli, stock: Stock, words: list[str], code: int, says: str) -> None:
    done = cli("compress", *words, "--json")
    assert (done.code, done.json["error"]["exit_code"]) == (code, code)
    assert says in done.json["error"]["message"]
    assert len(stock.names()) == 3
