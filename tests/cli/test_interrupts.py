"""Runs that are stopped from outside: nothing half-written stays, and the next run is as if there had been none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.toys import DEPLOYABLE, make_toy


def start(*words: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deepseek_cli", *words],
        env={**os.environ, "DEEPSEEK_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_deploy_leaves_nothing_under_the_final_name(tmp_path: Path, stop: signal.Signals, code: int) -> None:
    make_toy(tmp_path / "toy", **{**DEPLOYABLE, "num_hidden_layers": 8, "intermediate_size": 4096})
    words = ("deploy", str(tmp_path / "toy"), "-o", str(tmp_path / "bundle"))
    running = start(*words, home=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("bundle.staging-*/model.onnx.data")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(stop)
    running.communicate(timeout=60)
    assert running.returncode == code
    assert not (tmp_path / "bundle").exists()
    again = start(*words, home=tmp_path)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "toy"]
