"""A file that is not whole yet: its bytes, and a log of the chunks that have arrived, which outlives a kill.

Beside where the file will lie stand `<name>.deepseek-part`, of its full size, and `<name>.deepseek-log`:

    <size> <chunk size> <digest> <boot>     what is fetched, and in which run of the machine
    17                                      chunk 17 is in the file
    synced 1                                the first record's bytes have reached the disk itself

A chunk is recorded after its bytes were written, so a killed process leaves no record that is wrong. A machine that
lost its power may: after a restart only what was synced is believed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

CHUNK_BYTES = 8 << 20
SYNC_EVERY = 8  # chunks
PIECE_BYTES = CHUNK_BYTES  # what is hashed at once: threads that fetch would hold up each piece's beginning
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Parts:
    """Many threads may write, record and sync at once; one reads and finishes."""

    def __init__(self, final: Path, size: int, digest: str) -> None:
        self.final, self.size = final, size
        self.path = final.with_name(f"{final.name}.deepseek-part")
        self.log = final.with_name(f"{final.name}.deepseek-log")
        self.count = -(-size // CHUNK_BYTES)
        self._claim = f"{size} {CHUNK_BYTES} {digest}"
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        self._synced = 0
        self.done = self._read_log()
        self._records: FileIO | None = None

    def start(self) -> None:
        """Make both files where they are not there, or not of this content."""
        with self._lock:
            if not self._records:
                self._start()

    def _start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.done:
            with self.path.open("wb") as file:
                file.truncate(self.size)
        lines = [f"{self._claim} {_boot_id()}", *map(str, sorted(self.done))]
        new = self.log.with_name(f"{self.log.name}.new")
        new.write_bytes("".join(f"{line}\n" for line in lines).encode())
        new.replace(self.log)  # at once: a kill between must not lose what was recorded
        self._records = self.log.open("ab", buffering=0)

    def span(self, index: int) -> tuple[int, int]:
        return index * CHUNK_BYTES, min(self.size, (index + 1) * CHUNK_BYTES)

    def missing(self) -> list[int]:
        return [index for index in range(self.count) if index not in self.done]

    def missing_bytes(self) -> int:
        return sum(end - start for start, end in map(self.span, self.missing()))

    def open(self) -> FileIO:
        return self.path.open("r+b", buffering=0)

    def record(self, index: int) -> None:
        """Say that a chunk is there; its bytes have been written before."""
        with self._lock:
            if self._records and index not in self.done:
                self._records.write(f"{index}\n".encode())
                self.done.add(index)

    def is_to_sync(self) -> bool:
        """After every SYNC_EVERY chunks, and after the last."""
        return len(self.done) >= min(self.count, self._synced + SYNC_EVERY)

    def sync(self) -> None:
        """What has been recorded survives a loss of power from here on. Where another thread is at it, nothing is done."""
        if not self._syncing.acquire(blocking=False):
            return
        try:
            if self.path.exists():  # it may have been given its name by now
                self._sync()
        finally:
            self._syncing.release()

    def _sync(self) -> None:
        with self._lock:
            recorded = len(self.done)
        with self.open() as file:
            os.fsync(file.fileno())
        with self._lock:
            if self._records:
                self._records.write(f"synced {recorded}\n".encode())
            self._synced = recorded
        if recorded == self.count:
            self.close()  # there may be more files than a process may hold open

    def pieces(self, index: int) -> Iterator[bytes]:
        start, end = self.span(index)
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            while start < end:
                piece = file.read(min(PIECE_BYTES, end - start))
                start += len(piece)
                yield piece

    def adopt(self) -> None:
        """Take back what stands under the final name and is not what it should be: its bytes are only claims now."""
        kept = self.final.stat().st_size
        self.final.replace(self.path)
        with self.path.open("r+b") as file:
            file.truncate(self.size)
        self.done = {index for index in range(self.count) if self.span(index)[1] <= kept}
        if not self.done:
            self.path.unlink()
        self.start()

    def finish(self) -> None:
        """Give the file its name. Only now it is one."""
        with self._syncing:
            with self.open() as file:
                os.fsync(file.fileno())
            self.close()
            self.path.replace(self.final)
        self.log.unlink()

    def forget(self) -> None:
        """Begin again: nothing that is there can be told from what is wrong."""
        self.discard()
        self.done, self._synced = set(), 0
        self.start()

    def discard(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            if self._records:
                self._records.close()
                self._records = None

    def _read_log(self) -> set[int]:
        try:
            *lines, _ = self.log.read_bytes().decode().split("\n")  # what follows the last line end was cut off
            *claim, boot = lines[0].split(" ")
            if " ".join(claim) != self._claim or self.path.stat().st_size != self.size:
                return set()
            records = [int(line) for line in lines[1:] if not line.startswith("synced")]
            marks = [int(line.split(" ")[1]) for line in lines[1:] if line.startswith("synced")]
        except (OSError, ValueError, IndexError):
            return set()
        believed = records if boot and boot == _boot_id() else records[: max(marks, default=0)]
        return {index for index in believed if 0 <= index < self.count}


def write_all(file: FileIO, content: bytes) -> None:
    """An unbuffered write may take a part only."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _boot_id() -> str:
    """Empty where the system does not say."""
    return BOOT_ID.read_text().strip() if BOOT_ID.is_file() else ""
