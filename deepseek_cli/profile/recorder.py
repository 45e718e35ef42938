"""Record where the memory of a program goes while it runs: `with DeepSeekProfiler("train", html="train.html") as profile:`.

The page is written at the end, also where the code inside raises; the error goes on. Nothing here reads the environment.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from deepseek_cli.profile import memory
from deepseek_cli.profile.accelerator import AllocatorReader
from deepseek_cli.profile.live import Reading, reading
from deepseek_cli.profile.report import check_writable, render_html, render_json, write

FAMILY_MS = 100.0  # looking for processes takes milliseconds
SHORT = 0.01  # seconds: less than that between two named phases belongs to the second


@dataclass(frozen=True, slots=True)
class Phase:
    """Seconds are of `time.monotonic()`; `peak_bytes` is None where the system does not tell one."""

    name: str
    start: float
    end: float
    peak_bytes: int | None
    peak_reset: bool
    now: Reading


class OwnSampler(memory.Sampler):
    """In the process that it watches. With `family` it adds up the processes that this one started."""

    def __init__(self, period: float, family: bool) -> None:
        super().__init__(os.getpid(), period)
        self.family = family

    def _read(self) -> tuple[int, int] | None:
        own = super()._read()
        return (own[0] + children_bytes(), own[1]) if own and self.family else own


class DeepSeekProfiler:
    """Use it once, as a context manager. `phase` names what runs inside it, `step` marks one iteration of the same work
    (whose memory should not grow), `watch` tells layers apart. What runs outside phases counts under the recording's own name.
    """

    def __init__(
        self,
        name: str,
        html: str | Path | None = None,
        json: str | Path | None = None,
        *,
        sample_ms: float = 10.0,
        command: str = "",
        force: bool = False,
        family: bool = False,
    ) -> None:
        """With `family` the processes that this one starts count too, each page of theirs as their own; what they share
        among them counts more than once, and peaks are what was sampled.

        Raises UsageError or ResourceError where `html` or `json` could not be written in the end; `force` replaces files
        that are not reports."""
        self.name, self.command, self.family = name, command, family
        self.sample_ms = max(sample_ms, FAMILY_MS) if family else sample_ms
        self.html, self.json = (None if path is None else Path(path) for path in (html, json))
        for path in (self.html, self.json):
            if path:
                check_writable(path, force)
        self.current, self.phases, self.steps = name, list[Phase](), list[int]()
        self.watched: list[Any] = []
        self.session: Any = None
        self.failed: tuple[str, BaseException] | None = None
        self.document: dict[str, Any] | None = None
        self.own_seconds = 0.0
        self.base: Reading | None = None
        self.allocator = AllocatorReader()
        self._lock = threading.RLock()

    def __enter__(self) -> DeepSeekProfiler:
        self.base = reading()
        self.sampler = OwnSampler(self.sample_ms / 1000, self.family)
        self.started = self.since = time.monotonic()
        self.reset = memory.reset_peak()
        self.allocator.reset()
        self.sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            if error is None:
                self.failed = None
            elif self.failed is None or self.failed[1] is not error:
                self.failed = self.current, error
            self._close(last=True)
            self.sampler.stop()
            for watched in self.watched:
                watched.stop()
        from deepseek_cli.profile.recorded import document

        self.document = document(self)
        if self.html:
            write(self.html, render_html(self.document))
        if self.json:
            write(self.json, render_json(self.document))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What runs inside, with its own peak; a phase inside another interrupts it."""
        before = self.current
        self.begin(name)
        try:
            yield
        except BaseException as error:
            if self.failed is None or self.failed[1] is not error:
                self.failed = name, error  # the innermost phase that it comes through
            raise
        finally:
            self.begin(before)

    def begin(self, name: str) -> None:
        """From now on it is this phase, until the next one begins."""
        with self._lock:
            if name != self.current:
                self._close()
                self.current = name

    def step(self) -> None:
        """One more iteration of the same work is done."""
        self.steps.append(quick_bytes())
        self.allocator.step()

    def watch(self, model: Any) -> None:
        """Tell the layers of a torch.nn.Module apart, by hooks that end with the recording."""
        from deepseek_cli.profile.watched import Watched

        self.watched.append(Watched(model))

    def _close(self, last: bool = False) -> None:
        """End the phase that runs now, and read what is held."""
        end = time.monotonic()
        if self.current == self.name and end - self.since < SHORT and not (last and not self.phases):
            return
        most = memory.peak()
        now = reading(self.session)
        if self.family:
            now = now.beside("other_processes", children_bytes())
            most = max((rss for at, rss, _ in self.sampler.samples if self.since <= at <= end), default=0)
        peak = None if most is None else max(most, now.rss)
        self.phases.append(Phase(self.current, self.since, end, peak, self.reset, now))
        self.allocator.phase(self.current)
        self.reset = memory.reset_peak()
        self.since = time.monotonic()
        self.own_seconds += self.since - end


def quick_bytes() -> int:
    """Anonymous memory as the kernel's counters have it, in microseconds; the process's total where they are not told."""
    try:
        with (memory.PROC / "statm").open("rb") as file:
            _, resident, shared = file.read().split()[:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


def children_bytes() -> int:
    """Resident memory of all processes that this one started, and theirs."""
    import psutil

    total = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            total += child.memory_info().rss
    return total


def runtime_name() -> str:
    """What computes here: PyTorch with its version, else Python."""
    torch = sys.modules.get("torch")
    return f"PyTorch {torch.__version__}" if torch else f"Python {sys.version.split()[0]}"
