"""A cap on this process's resident memory, as `--memory` says: checked before work where its need is known, and watched."""

from __future__ import annotations

import _thread
import contextlib
import mmap
import signal
import threading
from collections.abc import Iterator

from deepseek_cli.errors import MemoryShort
from deepseek_cli.spec import format_size

PAUSE_SECONDS = 0.05  # between two looks
_cap: int | None = None  # bytes; like the memory itself it belongs to the process


def resident_bytes() -> int:
    """What this process holds now, mapped files' pages included."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def free_bytes() -> int:
    """What this process may still take: what the machine has free, within the cap."""
    import psutil

    free = int(psutil.virtual_memory().available)
    return free if _cap is None else max(0, min(free, _cap - resident_bytes()))


def untouched(size: int) -> mmap.mmap:
    """Zeros whose pages become resident one by one as they are first written; an allocator may give pages it had before."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, size, **private)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page would be resident as a whole
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


@contextlib.contextmanager
def capped(most: int) -> Iterator[None]:
    """Raises MemoryShort in the block soon after the process holds more than `most` bytes, the way Ctrl-C would stop it.

    Between two looks, or inside one long computation, it may briefly hold more.
    """
    global _cap
    watch = Watch(most)
    _cap = most
    try:
        with _interruptible(watch):
            try:
                watch.start()
                yield
            finally:
                _cap = None
                watch.stop()
    except KeyboardInterrupt:
        if not watch.exceeded:
            raise
        raise MemoryShort(
            "This took {seen} of memory, and --memory allows {most}.",
            hint="Allow more, use a smaller --context, or a smaller model.",
            seen=format_size(watch.exceeded),
            most=format_size(most),
        ) from None


@contextlib.contextmanager
def _interruptible(watch: Watch) -> Iterator[None]:
    """A shell starts `command &` with interrupts ignored: the watch's own must come through all the same, and no other."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return

    def stop(*_: object) -> None:
        if watch.exceeded:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class Watch(threading.Thread):
    """Interrupts the main thread once, when the process holds more than `most` bytes; `exceeded` then says how many it held."""

    def __init__(self, most: int) -> None:
        super().__init__(daemon=True)
        self.most, self.exceeded, self.done = most, 0, threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            held = resident_bytes()
            if held > self.most:
                self.exceeded = held
                _thread.interrupt_main()
                return
            self.done.wait(PAUSE_SECONDS)

    def stop(self) -> None:
        self.done.set()
        self.join()
