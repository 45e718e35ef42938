"""ONNX Runtime's own profile of the prompt and the first steps after it.

Its profiler takes 7 µs for each node that runs, 15 where threads share the work: on a small model as long as the nodes
themselves. It can be stopped while a session goes on, but not started again, so that it watches the beginning of the work only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek_cli.profile.operators import Event
from deepseek_cli.runtime.onnx_session import OnnxSession


class TracedSession(OnnxSession):
    """The profiler stops after the first steps of decoding that took `budget` seconds together: one at least."""

    def __init__(self, folder: Path, config: Any, context: int, threads: int | None, *, budget: float) -> None:
        super().__init__(folder, config, context, threads, profile=True)
        self.left, self.decode_steps = budget, 0
        self.writing_seconds = self.writing_cpu_seconds = 0.0
        self.written: Path | None = None

    def feed(self, tokens: Sequence[int], keep: int = 1) -> Any:
        decoding, start = self.position > 0, time.perf_counter()
        logits = super().feed(tokens, keep)
        if decoding and self.written is None:
            self.decode_steps += 1
            self.left -= time.perf_counter() - start
            if self.left <= 0:
                self._stop()
        return logits

    def events(self) -> list[Event]:
        self._stop()
        assert self.written
        return read_events(self.written)

    def _stop(self) -> None:
        if self.written is None:
            start, cpu = time.perf_counter(), time.process_time()
            self.written = Path(self.end_profiling())
            self.writing_seconds, self.writing_cpu_seconds = time.perf_counter() - start, time.process_time() - cpu


def read_events(path: Path) -> list[Event]:
    """What the profile holds; its file is removed."""
    try:
        events: list[Event] = json.loads(path.read_text(encoding="utf-8"))
        return events
    finally:
        path.unlink(missing_ok=True)
