"""The processes that are measured: each is started, asked one line at a time, and explained where it dies."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from deepseek_cli import errors
from deepseek_cli.errors import DeepseekError, MemoryShort

# `-P` and this program instead of `-m`: the folder the user stands in must not lend the worker its modules.
BOOT = """
import importlib, json, sys
settings = json.loads(sys.stdin.readline())
sys.path[:] = settings["path"]
importlib.import_module(settings.get("module", "deepseek_cli.bench.worker")).main(settings)
"""


@dataclass
class Figures:
    """What was measured of one thing that is compared with others."""

    ref: str
    ready: dict[str, Any] = field(default_factory=dict)
    warmed: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    starts: dict[str, list[float]] = field(default_factory=dict)  # samples of load and start times, of processes before this one
    missing: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    error: DeepseekError | None = None
    number: int = 0  # among arms of the same name, where there are several

    @property
    def name(self) -> str:
        name = self.ready.get("name", self.ref)
        return f"{name} #{self.number}" if self.number else name


@dataclass(kw_only=True)
class Arm(Figures):
    """A worker process and what it answered."""

    process: subprocess.Popen
    log: IO[bytes]
    born: float  # of `time.perf_counter()`


@contextlib.contextmanager
def started(ref: str, settings: dict[str, Any], command: Sequence[str] = ()) -> Iterator[Arm]:
    """An arm whose worker loads its model; the worker ends with the block. Another `command` may speak worker.py's language."""
    with tempfile.TemporaryFile() as log:
        words = command or [sys.executable, "-P", "-c", BOOT]
        born = time.perf_counter()
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        arm = Arm(ref, process=process, log=log, born=born)
        try:
            arm.ready = ask(arm, {**settings, "path": sys.path})
            yield arm
        finally:
            process.kill()
            process.communicate()


def ask(arm: Arm, request: dict[str, Any]) -> dict[str, Any]:
    """Send one line, wait for one; {} and `arm.error` where the worker fails."""
    assert arm.process.stdin and arm.process.stdout
    if arm.error:
        return {}
    with contextlib.suppress(BrokenPipeError):
        arm.process.stdin.write(json.dumps(request).encode() + b"\n")
        arm.process.stdin.flush()
    line = arm.process.stdout.readline()
    answer = json.loads(line) if line else {}
    if not answer:
        arm.error = died(arm)
    elif answer.pop("event") == "error":
        kind = getattr(errors, answer["kind"], DeepseekError)
        arm.error = kind(answer["message"], hint=answer["hint"], **answer["facts"])
    return {} if arm.error else answer


def died(arm: Arm) -> DeepseekError:
    """Why a worker ended without a word of its own."""
    code = arm.process.wait()
    if code < 0:
        return MemoryShort(
            "The process that measured {model} was killed (signal {signal}).",
            hint="Most often that means that memory ran out.",
            model=arm.name,
            signal=-code,
        )
    arm.log.seek(0)
    lines = arm.log.read().decode(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else "it left no message"
    return DeepseekError(
        "The process that measured {model} failed: {reason}", hint="Please report this.", model=arm.name, reason=reason
    )


def name_apart(arms: Sequence[Figures]) -> None:
    """Number the arms whose names are equal, such as a model measured against itself."""
    names = [arm.name for arm in arms]
    for index, arm in enumerate(arms):
        if names.count(names[index]) > 1:
            arm.number = names[:index].count(names[index]) + 1
