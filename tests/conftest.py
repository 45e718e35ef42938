"""Fixtures that every part of the tests may use."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.main import main

torch.set_num_threads(1)  # on toys, threads cost more than they give
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background begins with interrupts ignored

LOUD = ("CI", "GITHUB_ACTIONS", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "TERM", "LANG", "LC_ALL", "LC_MESSAGES")


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's own settings, store or language reaches a test, and nothing of a test reaches them."""
    for name in os.environ:
        if name in LOUD or name.startswith(("DEEPSEEK_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Toys are too small for more, which only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`cli("list", "--json")` in an empty folder, in this process."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def all_cores() -> Iterator[None]:
    """For the few tests that compute with a real model."""
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)
