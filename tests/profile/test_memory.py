from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepseek_cli.profile import memory

SMAPS = """\
5581e000-5583e000 r--p 00000000 fe:00 11 /usr/bin/python3
Rss:                 100 kB
Anonymous:             0 kB
5583e000-5584e000 rw-p 00000000 00:00 0
Rss:                  40 kB
Anonymous:            40 kB
7f000000-7f100000 rw-p 00001000 fe:00 12 /models/a model/weights.bin
Rss:                 900 kB
Anonymous:           300 kB
7f200000-7f300000 r--p 00000000 fe:00 12                         /models/a model/weights.bin (deleted)
Rss:                  10 kB
Anonymous:             0 kB
7f400000-7f500000 rw-s 00000000 00:01 13                         /dev/zero (deleted)
Rss:                  64 kB
Anonymous:             0 kB
7ffd0000-7ffd1000 rw-p 00000000 00:00 0                          [stack]
Rss:                   8 kB
Anonymous:             8 kB
"""


def test_the_kinds_sum_to_what_is_resident() -> None:
    found = memory.parse_smaps(SMAPS.splitlines(keepends=True), {"/models/a model/weights.bin"})
    sizes = {"rss": 1122, "anonymous": 412, "model_file": 610, "other_file": 100, "other_private": 0}
    assert found == memory.Resident(**{name: size * 1024 for name, size in sizes.items()})
    assert found.rss == found.anonymous + found.model_file + found.other_file  # type: ignore[operator]


def test_the_allocator_tells_what_it_handed_out_and_what_it_keeps() -> None:
    before = memory.heap()
    block = bytearray(8 << 20)
    assert before == memory.Heap() or memory.heap().used >= before.used + len(block)


def test_python_tells_what_its_objects_take() -> None:
    before = memory.python_bytes()
    objects = [[i] for i in range(100_000)]
    assert before == 0 or memory.python_bytes() >= before + 5 * len(objects)


def test_asking_python_leaves_standard_error_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    memory.python_bytes()
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_written_pages_of_libraries_are_told_apart() -> None:
    lines = [
        "7f00-7f01 rw-p 0 fe:00 3 /usr/lib/libm.so",
        "Rss: 12 kB",
        "Anonymous: 8 kB",
        "7f01-7f02 rw-p 0 fe:00 12 /m/w",
        "Rss: 4 kB",
        "Anonymous: 4 kB",
    ]
    found = memory.parse_smaps(lines, {"/m/w"})
    assert (found.anonymous, found.other_file, found.other_private) == (12 * 1024, 4 * 1024, 8 * 1024)


def test_an_allocator_that_tells_nothing_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.heap() == memory.Heap()


def test_without_proc_only_the_total_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path)
    found = memory.resident()
    assert found.rss > 0
    assert found.anonymous is found.model_file is found.other_file is None
    assert memory.resident_of(0, 4096) is None
    assert memory.mapped_ranges({"x"}) == []
    assert not memory.reset_peak() or (tmp_path / "clear_refs").exists()


def test_the_peak_is_read_from_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.peak() == 2048 * 1024


@pytest.mark.parametrize(("platform", "known"), [("darwin", True), ("other", False)])
def test_the_peak_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, known: bool) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    assert (memory.peak() is not None) == known


def test_mapped_ranges_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("10-20 r--p 0 fe:00 1 /m/w\n20-30 r--p 0 fe:00 2 /m/other\n30-40 rw-p 0 00:00 0\n")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.mapped_ranges({"/m/w"}) == [range(0x10, 0x20)]


def on_linux() -> bool:
    return sys.platform == "linux"


def test_pages_become_resident_when_they_are_written() -> None:
    if not on_linux():
        return
    size = 64 * mmap.PAGESIZE
    with mmap.mmap(-1, size) as buffer:
        import ctypes

        view = (ctypes.c_char * size).from_buffer(buffer)
        address = ctypes.addressof(view)
        assert memory.resident_of(address, size) == 0
        buffer[: 3 * mmap.PAGESIZE] = bytes([1]) * (3 * mmap.PAGESIZE)
        assert memory.resident_of(address, size) == 3 * mmap.PAGESIZE
        del view


def test_a_reset_peak_forgets_what_was_freed() -> None:
    if not on_linux():
        return
    with mmap.mmap(-1, 64 << 20) as buffer:
        buffer.write(bytes(64 << 20))
    high = memory.peak()
    assert memory.reset_peak()
    assert memory.peak() < high - (32 << 20)  # type: ignore[operator]


def test_the_sampler_sees_a_child_and_ends_with_it() -> None:
    code = "import time; block = bytearray(30 << 20); time.sleep(0.4)"
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        sampler = memory.Sampler(child.pid, 0.005)
        sampler.start()
        child.wait()
        time.sleep(0.02)
        sampler.stop()
    assert len(sampler.samples) > 5
    assert max(rss for _, rss, _ in sampler.samples) > 30 << 20
    assert all(0 <= file <= rss for _, rss, file in sampler.samples)


def test_psutil_stands_in_for_status() -> None:
    sampler = memory.Sampler(os.getpid(), 0.01)
    rss, file = sampler._read_psutil()  # type: ignore[misc]
    assert rss > 0
    assert file == 0
    assert memory.Sampler(2**22 + 1, 0.01)._read_psutil() is None
