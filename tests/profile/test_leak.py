from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deepseek_cli.handle import open_model
from deepseek_cli.profile.leak import leak_of
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy

PROMPT = [1, 2, 3, 4]
LOST = 1 << 19


class Leaking(TorchSession):
    """Keeps memory every time it is fed, as a forgotten list of states would: pages of its own, that nothing freed before."""

    kept: list[mmap.mmap]

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        self.kept = [*getattr(self, "kept", []), mmap.mmap(-1, LOST)]
        self.kept[-1].write(bytes(LOST))
        return super().feed(tokens, keep)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_toy(tmp_path, **DEPLOYABLE)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere resident memory is too coarse")
def test_a_session_that_keeps_memory_leaks(folder: Path) -> None:
    found = leak_of(Leaking(open_model(str(folder), Store(folder)), context=16, threads=1), PROMPT, 2, iterations=8)
    assert found["leaks"]
    assert found["slope_bytes"] == pytest.approx(3 * LOST, rel=0.1)  # of three calls
    assert found["low_bytes"] <= found["slope_bytes"] <= found["high_bytes"]


def test_a_session_that_keeps_nothing_does_not(folder: Path) -> None:
    session = TorchSession(open_model(str(folder), Store(folder)), context=16, threads=1)
    found = leak_of(session, PROMPT, 2, iterations=8)
    assert not found["leaks"]
    assert len(found["points"]) == 8
    assert session.position == 6
