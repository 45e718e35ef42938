"""`--memory`: the process stops soon after it holds more, with nothing half-written, and checks count within the cap."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deepseek_cli.errors import MemoryShort
from deepseek_cli.memory import capped, free_bytes, resident_bytes
from tests.conftest import Outcome
from tests.toys import DEPLOYABLE, make_toy

MB = 1_000_000


def wait() -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        time.sleep(0.01)


def test_more_than_the_cap_ends_the_block() -> None:
    start = time.monotonic()
    with pytest.raises(MemoryShort, match=r"--memory allows \d+(\.\d)? [MG]B"), capped(resident_bytes() + 60 * MB):
        held = bytearray(b"x") * (200 * MB)
        wait()
    assert held and time.monotonic() - start < 5


def test_the_cap_holds_where_a_shell_has_interrupts_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(MemoryShort), capped(resident_bytes() + 60 * MB):
            os.kill(os.getpid(), signal.SIGINT)  # is still ignored
            held = bytearray(b"x") * (200 * MB)
            wait()
        assert held and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_less_than_the_cap_is_no_matter_and_ctrl_c_stays_what_it_is() -> None:
    with capped(resident_bytes() + 1000 * MB):
        time.sleep(0.12)
    with pytest.raises(KeyboardInterrupt), capped(resident_bytes() + 1000 * MB):
        raise KeyboardInterrupt


def test_what_is_free_counts_within_the_cap() -> None:
    assert free_bytes() > 0.5 * psutil.virtual_memory().available
    with capped(resident_bytes() + 100 * MB):
        assert 50 * MB < free_bytes() <= 100 * MB
    assert free_bytes() > 0.5 * psutil.virtual_memory().available


@pytest.mark.parametrize("command", ["quantize", "deploy"])
def test_a_command_that_needs_more_leaves_nothing(cli: Callable[..., Outcome], tmp_path: Path, command: str) -> None:
    toy = make_toy(tmp_path / "toy", **DEPLOYABLE)
    done = cli(command, str(toy), "-o", str(tmp_path / "out"), "--memory", "1MB", "--json")
    assert (done.code, done.json["error"]["code"]) == (4, "memory-short")
    assert "1.0 MB" in done.json["error"]["message"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == []


def test_a_size_that_is_none_is_refused(cli: Callable[..., Outcome]) -> None:
    done = cli("run", "nothing", "Hello", "--memory", "much")
    assert done.code == 2 and "--memory" in done.err
