"""The committed completion scripts are what the commands say, and shells accept them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deepseek_cli import completion
from deepseek_cli.commands import COMMANDS
from tests.cli.processes import PRESENT, ROOT


@pytest.mark.parametrize(("shell", "name"), completion.FILES.items())
def test_the_committed_script_is_current(shell: str, name: str) -> None:
    committed = (ROOT / "completions" / name).read_bytes().decode()
    assert committed == completion.script(shell), "write them again: python -m deepseek_cli.completion completions"


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scripts for the commands that are there."""
    monkeypatch.setattr(completion, "COMMANDS", {name: COMMANDS[name] for name in PRESENT})
    completion.write_all(tmp_path)
    return tmp_path


CHECKS = [
    [shell, "-n", name]
    for shell, name in (("bash", "deepseek.bash"), ("zsh", "_deepseek"), ("fish", "deepseek.fish"))
    if shutil.which(shell)
]


@pytest.mark.parametrize("words", CHECKS, ids=lambda words: words[0])
def test_a_shell_accepts_its_script(scripts: Path, words: list[str]) -> None:
    done = subprocess.run(words, cwd=scripts, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def bash(scripts: Path) -> Callable[[str], list[str]]:
    def complete(line: str) -> list[str]:
        """What a TAB at the end of the line offers; bash breaks words at @."""
        words = " ".join(f"'{word}'" for word in line.replace("@", " @ ").split()) + (" ''" if line.endswith(" ") else "")
        code = f"""
            deepseek() {{ printf 'org--toy@int4-g32\\norg--toy@int8\\nother\\n'; }}
            source deepseek.bash
            COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
            _deepseek
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(["bash", "-c", code], cwd=scripts, capture_output=True, text=True, check=True)
        return done.stdout.split()

    return complete


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("deepseek quan", ["quantize"]),
        ("deepseek --ver", ["--version"]),
        ("deepseek quantize --in", ["--int4", "--int8"]),
        ("deepseek quantize x --group ", ["32", "64", "128", "channel"]),
        ("deepseek quantize --scheme ", []),
        ("deepseek list --color a", ["auto", "always"]),
        ("deepseek completion f", ["fish"]),
        ("deepseek show org--toy@int", ["int4-g32", "int8"]),
        ("deepseek show oth", ["other"]),
        ("deepseek list -o dee", ["deepseek.bash", "deepseek.fish", "deepseek.ps1"]),
    ],
)
def test_bash_offers_what_fits(bash: Callable[[str], list[str]], line: str, offered: list[str]) -> None:
    assert sorted(bash(line)) == sorted(offered)


def test_every_command_and_flag_is_in_every_script(scripts: Path) -> None:
    for name in completion.FILES.values():
        text = (scripts / name).read_text(encoding="utf-8")
        for line in completion.command_lines():
            assert line.name in text
            assert all((flag.long if name.endswith("fish") else f"--{flag.long}") in text for flag in line.flags)


def test_scripts_are_english_everywhere(monkeypatch: pytest.MonkeyPatch, scripts: Path) -> None:
    monkeypatch.setenv("DEEPSEEK_LANG", "zh")
    assert completion.script("zsh") == (scripts / "_deepseek").read_text(encoding="utf-8")


def test_the_command_prints_the_script(cli: Callable, scripts: Path) -> None:
    assert cli("completion", "fish").out == (scripts / "deepseek.fish").read_text(encoding="utf-8")
