"""A run that is killed, at any instant, and started again comes to what it would have come to."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tests.compress.killed import run
from tests.toys import DEPLOYABLE, make_toy

KILLS = 5
WORDS = {"to_size": 90_000, "steps": "width=30%"}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "deepseek.json"}  # which holds times


def test_kills_at_any_instant_lose_nothing_and_change_no_bit(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", "llama", 1, **DEPLOYABLE)
    toy, whole, out = tmp_path / "toy", tmp_path / "whole", tmp_path / "out"
    touches, draw = run(toy, whole, WORDS), random.Random(0)
    for instant in (draw.randrange(1, touches // 2) for _ in range(KILLS)):
        run(toy, out, WORDS, instant)
        assert not out.exists() or contents(out) == contents(whole)
    run(toy, out, WORDS)
    assert contents(out) == contents(whole)
    assert {f.name for f in tmp_path.iterdir()} - {"home"} == {"out", "toy", "whole"}


def test_a_kill_while_the_result_takes_its_place_loses_nothing(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", "llama", 1, **DEPLOYABLE)
    toy, whole, out = tmp_path / "toy", tmp_path / "whole", tmp_path / "out"
    touches = run(toy, whole, WORDS)
    for before_the_end in random.Random(0).sample(range(1, 40), 2):
        assert run(toy, out, WORDS, touches - before_the_end) == 0
        run(toy, out, WORDS)
        assert contents(out) == contents(whole) and not Path(f"{out}.work").exists()
        shutil.rmtree(out)
