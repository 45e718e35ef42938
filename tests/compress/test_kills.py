"""A run that is killed, at any instant, and started again comes to what it would have come to."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepseek_cli.compress.engine import compress
from deepseek_cli.compress.spec import CompressSpec
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import open_model
from deepseek_cli.reporter import Silent
from deepseek_cli.store import Store
from tests.compress.killed import run
from tests.toys import DEPLOYABLE, make_toy

KILLS = 5
WORDS = {"to_size": 90_000, "steps": "width=30%", "level": "fast"}
PUBLISHING = 12  # touches from the end on, among which the result takes its place


class Stopped(Exception):
    pass


@dataclass(frozen=True)
class StoppedBy(Silent):
    step: str = ""

    def progress(self, step: str, done: int, total: int, unit: str = "") -> None:
        if step == self.step:
            raise Stopped


@dataclass(frozen=True)
class LeftAlone:
    """`out` is where it was: manifests name it, and their sizes count."""

    toy: Path
    out: Path
    touches: int
    contents: dict[str, bytes]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "deepseek.json"}  # which holds times


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> LeftAlone:
    folder = tmp_path_factory.mktemp("whole")
    make_toy(folder / "toy", "llama", 1, **DEPLOYABLE)
    touches = run(folder / "toy", folder / "out", WORDS)
    return LeftAlone(folder / "toy", folder / "out", touches, contents(folder / "out"))


@pytest.fixture
def out(whole: LeftAlone) -> Path:
    shutil.rmtree(whole.out, ignore_errors=True)
    return whole.out


def test_kills_at_any_instant_lose_nothing_and_change_no_bit(whole: LeftAlone, out: Path) -> None:
    draw = random.Random(0)
    for _ in range(KILLS):
        run(whole.toy, out, WORDS, draw.randrange(1, whole.touches // 2))
        assert not out.exists() or contents(out) == whole.contents
    run(whole.toy, out, WORDS)
    assert contents(out) == whole.contents
    assert sorted(file.name for file in out.parent.iterdir()) == ["out", "toy"]


def test_a_kill_while_the_result_takes_its_place_loses_nothing(whole: LeftAlone, out: Path) -> None:
    assert not run(whole.toy, out, WORDS, whole.touches - random.Random(0).randrange(PUBLISHING))
    run(whole.toy, out, WORDS)
    assert contents(out) == whole.contents
    assert sorted(file.name for file in out.parent.iterdir()) == ["out", "toy"]


def test_a_mistake_on_the_way_on_costs_no_work(whole: LeftAlone, tmp_path: Path) -> None:
    text, store = tmp_path / "text.txt", Store(tmp_path / "home")
    text.write_text("The river bends, and the old bridge bends with it. " * 2000, encoding="utf-8")
    toy, spec = open_model(str(whole.toy), store), CompressSpec(to_size=90_000, calibration=str(text))
    with pytest.raises(Stopped):
        compress(toy, spec, store, tmp_path / "out", reporter=StoppedBy("compare"))
    kept = sorted((tmp_path / "out.work").rglob("*.safetensors"))
    text.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        compress(toy, spec, store, tmp_path / "out")
    assert kept and sorted((tmp_path / "out.work").rglob("*.safetensors")) == kept
