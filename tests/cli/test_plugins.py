from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deepseek_cli import plugins
from tests.conftest import Outcome

Cli = Callable[..., Outcome]


@pytest.fixture
def two_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with one plug-in that works and one that does not."""
    folder = tmp_path / "site"
    info = folder / "acme_targets-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-targets\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[deepseek.targets]\ngood = acme_good:TARGET\nbad = acme_gone:TARGET\n", encoding="utf-8"
    )
    (folder / "acme_good.py").write_text("TARGET = 'a target'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)


class Warnings(list):
    def warn(self, message: str, **facts: object) -> None:
        self.append(message.format(**facts))


@pytest.mark.usefixtures("two_plugins")
def test_a_plugin_is_found_by_group_and_name() -> None:
    assert plugins.find("deepseek.targets", "good") == "a target"
    assert plugins.find("deepseek.algorithms", "good") is None
    assert plugins.find("deepseek.targets", "other") is None


@pytest.mark.usefixtures("two_plugins")
def test_a_broken_plugin_is_one_warning_that_names_its_distribution() -> None:
    warnings = Warnings()
    assert plugins.find("deepseek.targets", "bad", warnings) is None  # type: ignore[arg-type]
    assert warnings == ["The plug-in bad of acme-targets 1.2 cannot be loaded: ModuleNotFoundError: No module named 'acme_gone'."]


@pytest.mark.usefixtures("two_plugins")
def test_the_command_lists_without_importing(cli: Cli) -> None:
    done = cli("plugins", "--json")
    assert done.json["plugins"] == [
        {"name": "bad", "group": "deepseek.targets", "distribution": "acme-targets 1.2"},
        {"name": "good", "group": "deepseek.targets", "distribution": "acme-targets 1.2"},
    ]
    assert cli("plugins", "list", "-q").out == "bad\ngood\n"
    assert cli("plugins").out.splitlines()[2].split() == ["good", "targets", "acme-targets", "1.2"]


@pytest.mark.usefixtures("two_plugins")
def test_check_loads_one(cli: Cli) -> None:
    assert cli("plugins", "check", "good").out == "good of acme-targets 1.2 loads.\n"
    done = cli("plugins", "check", "bad", "--json")
    assert (done.code, done.json["error"]["code"], len(done.json["warnings"])) == (1, "answer-is-no", 1)
    assert (done := cli("plugins", "check", "god")).code == 2 and "Did you mean good?" in done.err
    assert cli("plugins", "check").code == cli("plugins", "list", "good").code == 2


@pytest.mark.usefixtures("two_plugins")
def test_one_variable_hides_them_all(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_NO_PLUGINS", "1")
    assert plugins.find("deepseek.targets", "good") is None
    assert cli("plugins", "--json").json["plugins"] == []


def test_a_registry_entry_is_loaded_by_its_path() -> None:
    assert plugins.load("pathlib:Path") is Path
