from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import tomli

from deepseek_cli import doctor
from tests.cli.processes import ROOT
from tests.conftest import Outcome

Cli = Callable[..., Outcome]


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What importlib.metadata says is installed; every package at its least version, to begin with."""
    installed = dict(doctor.PACKAGES)

    def version(package: str) -> str:
        if package not in installed:
            raise metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(metadata, "version", version)
    return installed


@pytest.mark.usefixtures("versions")
def test_a_healthy_machine(cli: Cli, tmp_path: Path) -> None:
    done = cli("doctor")
    assert done.code == 0
    assert done.out.startswith("All is well.\n")
    assert f"    home: {tmp_path / 'home'} (DEEPSEEK_HOME)\n" in done.out.partition("For a bug report:")[2]
    assert all(check["ok"] for check in cli("doctor", "--json").json["checks"])


def test_a_package_that_is_missing_or_old_is_a_no_with_its_remedy(cli: Cli, versions: dict[str, str]) -> None:
    del versions["tokenizers"]
    versions["onnxruntime"] = "1.30.2"
    done = cli("doctor")
    assert done.code == 1
    assert '  tokenizers: it is needed. pip install "tokenizers>=0.22"\n' in done.out
    assert '  onnxruntime: older than 1.31. pip install "onnxruntime>=1.31"\n' in done.out
    assert cli("doctor", "-q").out == "onnxruntime\ntokenizers\n"
    assert cli("doctor", "--json").json["ok"] is False


@pytest.mark.usefixtures("versions")
def test_a_token_is_present_or_absent_and_never_shown(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert "hub token: absent" in cli("doctor").out
    (tmp_path / "token").write_text("hf_secret", encoding="utf-8")
    assert "hub token: present" in cli("doctor").out
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in cli("doctor", "--json").out


def test_the_processor_is_read_from_linux(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: A Chip\nflags\t\t: fpu avx2 f16c\n", encoding="utf-8")
    assert doctor._processor(file) == ("A Chip", {"fpu", "avx2", "f16c"})
    assert doctor._processor(tmp_path / "none") == ("", set())


@pytest.mark.parametrize(
    ("text", "wanted"), [("2.13.0+cpu", [2, 13, 0]), ("1.31", [1, 31]), ("0.22.0rc1", [0, 22, 0]), ("3.1.6.post1", [3, 1, 6])]
)
def test_versions_are_compared_by_their_numbers(text: str, wanted: list[int]) -> None:
    assert doctor.numbers(text) == wanted


def test_the_packages_are_those_that_we_declare() -> None:
    declared = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert {text.partition(",")[0] for text in declared} == {f"{name}>={least}" for name, least in doctor.PACKAGES.items()}
