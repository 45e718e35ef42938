from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.commands.conftest import Stock
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
Golden = Callable[[str, str], None]


def test_human(cli: Cli, toy: Path, golden: Golden) -> None:
    first, again = cli("pull", toy), cli("pull", toy)
    assert (first.code, again.code) == (0, 0)
    golden("pull", first.out + again.out)


def test_json(cli: Cli, toy: Path) -> None:
    first, again = cli("pull", toy, "--json"), cli("pull", toy, "--json")
    keys = {"schema", "ok", "name", "path", "bytes", "parameters", "unchanged", "warnings"}
    assert first.json.keys() == again.json.keys() == keys
    assert (first.json["schema"], first.json["name"], first.json["path"]) == ("deepseek.pull/1", "toy", str(toy))
    assert (first.json["unchanged"], again.json["unchanged"]) == (False, True)


def test_quiet_prints_where_the_model_lies(cli: Cli, toy: Path) -> None:
    assert cli("pull", toy, "-q") == Outcome(0, f"{toy}\n", "")
    assert cli("pull", toy, "-o", "copy", "-q") == Outcome(0, "copy\n", "")


def test_an_output_is_a_copy_that_opens(cli: Cli, toy: Path) -> None:
    assert cli("pull", toy, "-o", "copy").code == 0
    assert cli("show", "copy", "--json").json["name"] == "toy"
    assert cli("verify", "copy").code == 0


def test_a_dry_run_lists_files_and_writes_nothing(cli: Cli, toy: Path, tmp_path: Path, golden: Golden) -> None:
    done = cli("pull", toy, "--dry-run")
    golden("pull-dry-run", done.out)
    plan = cli("pull", toy, "--dry-run", "--json").json
    assert plan["bytes"] == sum(plan["files"].values()) == sum(f.stat().st_size for f in toy.iterdir())
    assert not (tmp_path / "home").exists()


def test_a_model_that_is_not_there(cli: Cli) -> None:
    done = cli("pull", "./nothing", "--json")
    assert (done.code, done.json["ok"], done.json["error"]["code"]) == (3, False, "model-not-found")
    assert "./nothing" in done.json["error"]["message"]
    assert "error: There is no file or folder ./nothing." in cli("pull", "./nothing").err


def test_a_source_that_is_none(cli: Cli) -> None:
    done = cli("pull", "ms:a/b", "--source", "elsewhere")
    assert done.code == 2 and "'elsewhere' is no source of models" in done.err


def test_the_projects_model_is_pulled_where_none_is_named(cli: Cli, toy: Path) -> None:
    Path("deepseek.toml").write_text(f'model = "{toy}"\n')
    assert cli("pull", "-q").out == f"{toy}\n"


def test_the_store_has_its_entry_afterwards(cli: Cli, toy: Path, stock: Stock) -> None:
    before = stock.tree()
    assert cli("pull", toy, "--json").json["unchanged"] is True
    assert stock.tree() == before
