"""When ONNX Runtime has read a model's weights and begins to pack them for its kernels, and how much it packs.

Its own log tells the moment, which must come through standard error: there is no other way to hear it from Python. The log
is read back from the file that standard error is in the measured process. Where it is none, or an other version words it
differently, the moment is never found, and packing stays a part of loading.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepseek_cli.profile import operators
from deepseek_cli.profile.arena import start_of
from deepseek_cli.profile.traced import read_events
from deepseek_cli.runtime.onnx_session import OnnxSession, Rewrite

STANDARD_ERROR = 2
INFORMATION = 1
WEIGHTS_READ = b"Done saving initialized tensors"  # of the graph, before those of its subgraphs; kernels and packing follow
PAUSE_SECONDS = 0.0005


class TellingSession(OnnxSession):
    """Logs how far loading is. Running says nothing at this level."""

    def _load(self, path: Path, options: Any, accuracy_level: int | None, rewrite: Rewrite | None) -> Any:
        options.log_severity_level = INFORMATION
        return super()._load(path, options, accuracy_level, rewrite)


class UnpackedSession(OnnxSession):
    """Computes with weights as they are stored."""

    def _load(self, path: Path, options: Any, accuracy_level: int | None, rewrite: Rewrite | None) -> Any:
        options.add_session_config_entry("session.disable_prepacking", "1")
        return super()._load(path, options, accuracy_level, rewrite)


@contextmanager
def watched(found: Callable[[], None]) -> Iterator[None]:
    """Calls `found` from another thread as soon as a session that is opened inside has read its weights."""
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(found, done), daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()


def _watch(found: Callable[[], None], done: threading.Event) -> None:
    try:
        place = os.lseek(STANDARD_ERROR, 0, os.SEEK_END)
        while not done.wait(PAUSE_SECONDS):
            if WEIGHTS_READ in os.pread(STANDARD_ERROR, 1 << 20, place):
                found()
                return
    except (OSError, AttributeError):  # standard error is no file, or this is Windows
        return


def unpacked_bytes(folder: Path, config: Any, threads: int | None) -> int | None:
    """Bytes of weights in ONNX Runtime's arena where nothing is packed; None where it does not count."""
    session = UnpackedSession(folder, config, 1, threads, profile=True)
    session.feed([0])
    start = start_of(operators.node_events(read_events(Path(session.end_profiling()))))
    return start.in_use if start else None
