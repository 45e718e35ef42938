"""How a cpu bundle runs within a cap on its memory. `profile.optimize` chooses it; a bundle's manifest may hold one."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelCorrupt

KEY = "memory_plan"  # in what `deploy` resolved
SMAPS = Path("/proc/self/smaps")
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+\s*(.*)")  # addresses, permissions, offset, device, inode, path


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """None of it changes what is computed. ONNX Runtime's arena is no choice: without it, peaks were higher."""

    prepack: bool = True  # weights in the kernels' own order; off only pays where none are quantized
    release: bool = False  # let go of the file's pages that loading has read
    chunk: int | None = None  # tokens of a prompt that are computed at once
    context: int | None = None  # tokens that the cache is reserved for, where nobody says how many

    def as_record(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_plan(resolved: Mapping[str, Any], file: Path) -> MemoryPlan | None:
    """The plan in a manifest; None where there is none. Raises ModelCorrupt for what is none."""
    record = resolved.get(KEY)
    if record is None:
        return None
    flags, sizes = ("prepack", "release"), ("chunk", "context")
    known = isinstance(record, dict) and set(record) == {*flags, *sizes}
    if not (
        known
        and all(type(record[name]) is bool for name in flags)
        and all(record[name] is None or (type(record[name]) is int and record[name] > 0) for name in sizes)
    ):
        raise ModelCorrupt("{file}: memory_plan is not a memory plan.", hint="Deploy the model again.", file=file)
    return MemoryPlan(**record)


def release_pages(files: frozenset[str]) -> int:
    """Let go of the resident pages of mapped files that nobody wrote to; reading them again brings them back. Bytes let go:
    0 off Linux."""
    if not (hasattr(mmap, "MADV_DONTNEED") and SMAPS.exists()):
        return 0
    madvise, released = ctypes.CDLL(None).madvise, 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, size, resident in list(_untouched(files)):
        if madvise(start, size, mmap.MADV_DONTNEED) == 0:
            released += resident
    return released


def release_heap() -> None:
    """Give what was freed back to the system, where the C library is glibc: dequantizing leaves much of it behind."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _untouched(files: frozenset[str]) -> Iterator[tuple[int, int, int]]:
    """Address, size and resident bytes of each mapping of the files that holds no page of its own."""
    path, start, size, resident = "", 0, 0, 0
    with SMAPS.open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if line.startswith("Rss:"):
                resident = int(line.split()[1]) * 1024
            elif line.startswith("Anonymous:"):
                if path in files and line.split()[1] == "0":
                    yield start, size, resident
            elif match := MAPPING.match(line.rstrip("\n")):
                path, start = match[3], int(match[1], 16)
                size = int(match[2], 16) - start
