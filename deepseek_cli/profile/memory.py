"""What the operating system says about a process's memory. All figures are bytes.

On Linux: `/proc/self/smaps` at the edge of a phase (exact: the kernel walks the page table), `/proc/PID/statm` in between
(cheap; may lag by a few hundred KiB), `VmHWM` for the peak, reset between phases by writing 5 to `/proc/self/clear_refs`.
`ru_maxrss` is not used there: a child inherits it from its parent. Elsewhere only the process's total is known.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+\s*(.*)")  # addresses, permissions, offset, device, inode, path
WITHOUT_FILE = ("/dev/zero", "/dev/shm/", "/memfd:", "/SYSV")  # how shared memory is named
MALLOC_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
PYTHON_ARENAS = re.compile(rb"(\d+) arenas \* (\d+) bytes/arena")
STANDARD_ERROR = 2
PRESENT = 0x80  # bit 63 of a pagemap entry, in its last byte


@dataclass(frozen=True, slots=True)
class Resident:
    """Resident memory at one moment: rss = anonymous + model_file + other_file. None is what the system does not tell."""

    rss: int
    anonymous: int | None = None  # heaps, stacks, private copies of file pages, shared memory without a file
    model_file: int | None = None  # pages of the model's own files, mapped
    other_file: int | None = None  # libraries, data files
    other_private: int | None = None  # of `anonymous`: pages of libraries that were written, such as relocated tables


def resident(model_files: Collection[str] = ()) -> Resident:
    """This process's resident memory now; pages that belong to one of `model_files` (resolved paths) are told apart."""
    try:
        with (PROC / "smaps").open(encoding="utf-8", errors="surrogateescape") as lines:
            return parse_smaps(lines, model_files)
    except OSError:
        import psutil

        return Resident(psutil.Process().memory_info().rss)


def parse_smaps(lines: Iterable[str], model_files: Collection[str] = ()) -> Resident:
    """Sum the mappings of an smaps file, given line by line so that reading it costs no memory of its own."""
    rss = anonymous = model = private = size = 0
    path = ""
    for line in lines:
        if line.startswith("Rss:"):
            size = int(line.split()[1]) * 1024
            rss += size
        elif line.startswith("Anonymous:"):
            own = size if path.startswith(WITHOUT_FILE) else int(line.split()[1]) * 1024
            anonymous += own
            if path in model_files:
                model += size - own
            elif path.startswith("/") and not path.startswith(WITHOUT_FILE):
                private += own
        elif match := MAPPING.match(line.rstrip("\n")):
            path = path_of(match)
    return Resident(rss, anonymous, model, rss - anonymous - model, private)


def path_of(mapping: re.Match[str]) -> str:
    return mapping[3].removesuffix(" (deleted)")


def mapped_ranges(model_files: Collection[str]) -> list[range]:
    """The addresses at which the model's own files are mapped."""
    try:
        with (PROC / "maps").open(encoding="utf-8", errors="surrogateescape") as lines:
            found = [match for line in lines if (match := MAPPING.match(line.rstrip("\n"))) and path_of(match) in model_files]
    except OSError:
        return []
    return [range(int(match[1], 16), int(match[2], 16)) for match in found]


def peak() -> int | None:
    """The most that was ever resident since the start, or since `reset_peak`."""
    try:
        for line in (PROC / "status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return peak_elsewhere()


def peak_elsewhere() -> int | None:
    """The peak where there is no /proc: since the process's start, and never reset."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def reset_peak() -> bool:
    """Let `peak` start anew. False where the system cannot, so that the peak stays that of the whole run so far."""
    try:
        (PROC / "clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def resident_of(address: int, size: int) -> int | None:
    """How many bytes of [address, address + size) are resident, in whole pages; None where the system does not tell."""
    page = mmap.PAGESIZE
    first, last = address // page, -(-(address + size) // page)
    try:
        with (PROC / "pagemap").open("rb", buffering=0) as file:
            file.seek(first * 8)
            entries = file.read((last - first) * 8)
    except OSError:
        return None
    return sum(1 for high in entries[7::8] if high & PRESENT) * page


class MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`, summed over its arenas; `fordblks` counts free bytes."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in MALLOC_FIELDS.split())


@dataclass(frozen=True, slots=True)
class Heap:
    """The C library's allocator, as it counts itself: bytes handed out, and bytes that were freed and are kept."""

    used: int = 0
    free: int = 0


def heap() -> Heap:
    """Zeros where it does not tell."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):  # not glibc, or older than 2.33
        return Heap()
    mallinfo2.restype = MallocInfo
    found = mallinfo2()
    return Heap(int(found.uordblks + found.hblkhd), int(found.fordblks))


def python_bytes() -> int:
    """Bytes of the arenas that CPython keeps its small objects in, as it counts them; larger ones are on the heap.

    The counters are only ever printed, to the C library's standard error, which is led aside meanwhile.
    """
    if not hasattr(sys, "_debugmallocstats"):
        return 0
    with tempfile.TemporaryFile() as file:
        kept = os.dup(STANDARD_ERROR)
        os.dup2(file.fileno(), STANDARD_ERROR)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(kept, STANDARD_ERROR)
            os.close(kept)
        file.seek(0)
        match = PYTHON_ARENAS.search(file.read())
    return int(match[1]) * int(match[2]) if match else 0


class Sampler(threading.Thread):
    """Reads another process's resident memory every `period` seconds, from outside, so that it costs that process nothing.

    `samples` holds (time.monotonic(), rss, file-backed) with bytes; file-backed is 0 off Linux, and shared memory counts as such.
    `cpu_seconds` is what it cost.
    """

    def __init__(self, pid: int, period: float) -> None:
        super().__init__(daemon=True)
        self.pid, self.period, self.samples, self.cpu_seconds = pid, period, list[tuple[float, int, int]](), 0.0
        self._statm: int | None = None
        self._stop_asked = threading.Event()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            self._statm = os.open(f"/proc/{self.pid}/statm", os.O_RDONLY)  # once: opening takes five times as long as reading
        try:
            while not self._stop_asked.wait(self.period) and (reading := self._read()):
                self.samples.append((time.monotonic(), *reading))
        finally:
            if self._statm is not None:
                os.close(self._statm)
        self.cpu_seconds = time.thread_time()

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()

    def _read(self) -> tuple[int, int] | None:
        """None for a process that has ended."""
        if self._statm is None:
            return self._read_psutil()
        try:
            _, resident, shared = map(int, os.pread(self._statm, 256, 0).split()[:3])
        except (OSError, ValueError):
            return None
        return (resident * mmap.PAGESIZE, shared * mmap.PAGESIZE) if resident else None

    def _read_psutil(self) -> tuple[int, int] | None:
        import psutil

        try:
            return int(psutil.Process(self.pid).memory_info().rss), 0
        except psutil.Error:
            return None
