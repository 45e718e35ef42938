"""Many ranges of many files at once, each file hashed while it arrives, and mended where it is not what was announced.

Workers fetch chunks in the files' order. One more thread, the checker, follows them: it hashes each file as far as it is
there without a gap, and gives it its name when the digest is right. Whoever calls only watches, and reports.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.sources.parts import PIECE_BYTES, Parts, write_all
from deepseek_cli.sources.relay import Relay
from deepseek_cli.sources.wire import RemoteFile, Stopped

WATCH_S = 0.1
FEW = 2  # workers to begin with: on a fast network more of them only wait for each other
FAST = 64e6  # bytes a second from one worker; below, another one helps
ANSWERS = 5  # to one question, of which two have to agree
OFTEN = 8  # damaged chunks of one file; beyond that, it is hashed after 16, 32, … of them


@dataclass(slots=True)
class Transfer:
    """One file on its way to `final`. `sha256` is known once the file is checked."""

    file: RemoteFile
    final: Path
    parts: Parts
    present: bool  # under its final name before we came
    arrived: int  # bytes
    sha256: str = ""

    @classmethod
    def of(cls, file: RemoteFile, final: Path) -> Transfer:
        parts, present = Parts(final, file.size, file.digest), final.is_file()
        return cls(file, final, parts, present, file.size if present else file.size - parts.missing_bytes())


@dataclass(slots=True)
class Download:
    """`accept` looks at a file whose digest is right, and raises where it is still not what it should be."""

    relay: Relay
    transfers: Sequence[Transfer]
    accept: Callable[[RemoteFile, Path], None]
    jobs: deque[tuple[Transfer, int]] = field(default_factory=deque)
    notes: queue.SimpleQueue[tuple[str, dict[str, Any]]] = field(default_factory=queue.SimpleQueue)
    news: threading.Condition = field(default_factory=threading.Condition)  # a chunk is there, or something failed
    failure: BaseException | None = None
    checked: int = 0  # bytes hashed
    done: bool = False
    ended: set[str] = field(default_factory=set)  # steps whose end was reported

    def run(self, workers: int, reporter: Reporter = SILENT) -> None:
        """Up to `workers` ranges at once: two, and more where each is slow.

        Raises what a thread raised; what has arrived by then is kept for the next run.
        """
        self.relay.note = self.note
        for transfer in self.transfers:
            if not transfer.present:
                self.jobs.extend((transfer, index) for index in transfer.parts.missing())
        checker = self._start(self._check_all)
        crew = [self._start(self._work) for _ in range(min(FEW, workers, len(self.jobs)))]
        try:
            while checker.is_alive() and not self.failure:
                before = self.arrived
                checker.join(WATCH_S)
                self._report(reporter)
                if self.arrived - before < FAST * WATCH_S * len(crew):
                    crew += [self._start(self._work) for _ in range(min(len(crew), workers - len(crew), len(self.jobs)))]
        finally:
            self.relay.stop.set()
            with self.news:
                self.news.notify_all()
            for thread in (checker, *crew):
                thread.join(1)
            for transfer in self.transfers:
                transfer.parts.close()
        if self.failure:
            raise self.failure
        self.done = True
        self._report(reporter)

    @property
    def arrived(self) -> int:
        return sum(transfer.arrived for transfer in self.transfers)

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guarded, args=(target,), daemon=True)
        thread.start()
        return thread

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except Stopped:
            pass
        except BaseException as error:
            self.failure = self.failure or error
            self.relay.stop.set()
        finally:
            with self.news:
                self.news.notify_all()

    def note(self, message: str, **facts: object) -> None:
        """From any thread; the caller's passes it on."""
        self.notes.put((message, facts))

    # the workers

    def _work(self) -> None:
        while True:
            try:
                transfer, index = self.jobs.popleft()
            except IndexError:
                return
            self._fetch(transfer, index)

    def _fetch(self, transfer: Transfer, index: int) -> None:
        start, end = transfer.parts.span(index)
        transfer.parts.start()
        with transfer.parts.open() as target:

            def put(piece: bytes) -> None:
                write_all(target, piece)
                with self.news:
                    transfer.arrived += len(piece)

            target.seek(start)
            self.relay.fetch(transfer.file, start, end, put)
        transfer.parts.record(index)
        with self.news:
            self.news.notify_all()
        if transfer.parts.is_to_sync():  # here, since other threads go on meanwhile
            transfer.parts.sync()

    # the checker

    def _check_all(self) -> None:
        for transfer in self.transfers:
            if transfer.present:
                if self._is_right(transfer, _pieces_of(transfer.final)):
                    continue
                transfer.parts.adopt()
                for index in transfer.parts.missing():
                    self._fetch(transfer, index)
            if not transfer.parts.count:  # an empty file, which no worker makes
                transfer.parts.start()
            if not self._is_right(transfer, self._arriving(transfer)):
                self._mend(transfer)
            self.accept(transfer.file, transfer.parts.path)
            transfer.parts.finish()

    def _arriving(self, transfer: Transfer) -> Iterator[bytes]:
        """The file's bytes from the first to the last, waiting for what is not there yet."""
        parts = transfer.parts
        for index in range(parts.count):
            with self.news:
                self.news.wait_for(lambda i=index: i in parts.done or self.relay.stop.is_set())  # type: ignore[misc]
            if index not in parts.done:
                raise Stopped
            yield from parts.pieces(index)

    def _is_right(self, transfer: Transfer, pieces: Iterator[bytes]) -> bool:
        file, size = transfer.file, 0
        sha256 = hashlib.sha256()
        sha1 = hashlib.sha1(f"blob {file.size}\0".encode()) if len(file.digest) == 40 else None
        for piece in pieces:
            if self.relay.stop.is_set():
                raise Stopped
            sha256.update(piece)
            if sha1:
                sha1.update(piece)
            size += len(piece)
            self.checked += len(piece)
        transfer.sha256 = sha256.hexdigest()
        return size == file.size and (sha1 or sha256).hexdigest() == file.digest

    def _mend(self, transfer: Transfer) -> None:
        """Raises ModelCorrupt where no origin gives bytes with the digest."""
        parts = transfer.parts
        self.note("{file} is damaged: looking for the chunks to fetch again.", file=transfer.file.path)
        while not self._mended(transfer):
            if not self.relay.leave_out(transfer.file):
                parts.discard()
                raise ModelCorrupt(
                    "{endpoint} serves bytes of {file} that do not have the digest it announces.",
                    hint="Try another source, or tell whoever keeps the repository.",
                    endpoint=self.relay.endpoint,
                    file=transfer.file.path,
                )
            parts.forget()
            for index in parts.missing():
                self._fetch(transfer, index)
        self.note("{file} is whole again.", file=transfer.file.path)

    def _mended(self, transfer: Transfer) -> bool:
        """Hubs state digests of whole files only: so chunks are asked for again, one by one, until the whole is right."""
        parts, changes = transfer.parts, 0
        for index in range(parts.count):
            held = b"".join(parts.pieces(index))
            agreed = self._agreed(transfer, index, held)
            if agreed == held:
                continue
            with parts.open() as target:
                target.seek(parts.span(index)[0])
                write_all(target, agreed)
            changes += 1
            hashes_enough = changes > OFTEN and changes & (changes - 1)  # each time the whole file
            if not hashes_enough and self._is_right(transfer, self._arriving(transfer)):
                return True
        return self._is_right(transfer, self._arriving(transfer))

    def _agreed(self, transfer: Transfer, index: int, held: bytes) -> bytes:
        """What comes twice for a chunk: an answer may be damaged on its way, hardly two alike."""
        answers = [held]
        for _ in range(ANSWERS):
            pieces: list[bytes] = []
            self.relay.fetch(transfer.file, *transfer.parts.span(index), pieces.append)
            fresh = b"".join(pieces)
            if fresh in answers:
                return fresh
            answers.append(fresh)
        return answers[-1]

    # the caller

    def _report(self, reporter: Reporter) -> None:
        while not self.notes.empty():
            message, facts = self.notes.get()
            reporter.note(message, **facts)
        files = [(t.file.path, min(t.arrived, t.file.size), t.file.size) for t in self.transfers]
        total, arrived = sum(size for _, _, size in files), sum(done for _, done, _ in files)
        large = [step for step, t in zip(files, self.transfers, strict=True) if t.parts.count > 1 and not t.present]
        for step in large:
            self.progress(*step, reporter)
        self.progress("fetch", arrived, total, reporter)
        if arrived == total:
            self.progress("sha256", total if self.done else min(self.checked, total - 1), total, reporter)

    def progress(self, step: str, done: int, total: int, reporter: Reporter) -> None:
        if (done or step == "fetch") and step not in self.ended:  # the whole is said from the start, stalled or not
            reporter.progress(step, done, total, "B")
            self.ended |= {step} if done >= total else set()


def _pieces_of(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
