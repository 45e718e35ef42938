"""How long a process takes from its start to a first token: with the model's files in the page cache, and out of it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_cli.bench.arms import Arm, ask, started
from deepseek_cli.reporter import Reporter

KEPT = "the system kept the model's files in its page cache"
ELSEWHERE = "this system has no call that drops files from its page cache"
PROBES = 16  # places of a file where its pages are looked for
APART = 8 << 20  # bytes between two of them: looking makes the system read some way ahead


def start_in_turn(
    plans: Sequence[Mapping[str, Any]], files: Sequence[Sequence[Path]], count: int, reporter: Reporter
) -> list[tuple[dict[str, list[float]], dict[str, str]]]:
    """For each plan its samples and why others are missing. Before any worker that stays: what a process maps is not dropped."""
    found: list[tuple[dict[str, list[float]], dict[str, str]]] = [({}, {}) for _ in plans]
    for index in range(count):
        turn = range(len(plans)) if index % 2 == 0 else reversed(range(len(plans)))
        for arm in turn:
            samples, missing = found[arm]
            for suffix in ("_cold", ""):
                obstacle = drop(files[arm]) if suffix else ""
                if obstacle:
                    missing |= dict.fromkeys(("load_cold", "start_cold"), obstacle)
                for name, seconds in ({} if obstacle else one_start(plans[arm])).items():
                    samples.setdefault(name + suffix, []).append(seconds)
        reporter.progress("Starting", index + 1, count, "rounds")
    return found


def one_start(plan: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of one process; nothing where it fails, which the process that is measured will tell."""
    with started(plan["ref"], dict(plan), plan.get("command", ())) as arm:
        ask(arm, {"do": "first-token"})
        return _seconds(arm)


def _seconds(arm: Arm) -> dict[str, float]:
    return {} if arm.error else {"load": arm.ready["load"], "start": time.perf_counter() - arm.born}


def drop(files: Sequence[Path]) -> str:
    """Drop files from the page cache. Why that was not possible; "" where it was."""
    if not hasattr(os, "posix_fadvise"):
        return ELSEWHERE
    try:
        return KEPT if any([_kept(file) for file in files]) or not files else ""
    except OSError as error:
        return str(error.strerror)


def _kept(file: Path) -> bool:
    """Whether pages of the file are still there after it was dropped."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)  # pages that are not written yet cannot be dropped
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(handle).st_size
        kept = any(_is_cached(handle, offset) for offset in range(0, size, max(size // PROBES, APART)))
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        return kept
    finally:
        os.close(handle)


def _is_cached(handle: int, offset: int) -> bool:
    try:
        return os.preadv(handle, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


def files_of(ref: str, home: Path) -> list[Path]:
    """The model's files; none where `ref` names no model, which its own process will tell."""
    from deepseek_cli.errors import DeepseekError
    from deepseek_cli.sources import locate
    from deepseek_cli.store import Store

    try:
        path = locate(ref, Store(home)).path
    except DeepseekError:
        return []
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
