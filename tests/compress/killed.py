"""A run of `compress` that is killed when it is about to touch the disk for the n-th time: only then what is kept changes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

TOUCHES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link")


def touch_until(model: Path, out: Path, words: dict[str, object], most: int, counts: multiprocessing.SimpleQueue[int]) -> None:
    """`compress` in this process, killed before touch number `most`; how many there were, where it was not."""
    import torch

    from deepseek_cli.compress.engine import compress
    from deepseek_cli.compress.spec import CompressSpec
    from deepseek_cli.handle import open_model
    from deepseek_cli.store import Store

    torch.set_num_threads(1)
    seen = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in TOUCHES and str(out) in str(arguments[0]):
            seen += 1
            if seen == most:
                os.kill(os.getpid(), signal.SIGKILL)

    store = Store(out.parent / "home")
    sys.addaudithook(count)
    compress(open_model(str(model), store), CompressSpec(**words), store, out)  # type: ignore[arg-type]
    counts.put(seen)


def run(model: Path, out: Path, words: dict[str, object], most: int = 0) -> int:
    """The touches of a run that ended; 0 for one that was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepseek_cli.compress.engine"])
    counts = context.SimpleQueue()
    process = context.Process(target=touch_until, args=(model, out, words, most, counts))
    process.start()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return 0
    assert process.exitcode == 0
    return counts.get()
