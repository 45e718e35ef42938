"""The loop that owns the session: it reads prompts chunk by chunk, and between chunks takes every answer one token further."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from deepseek_cli.serve.job import End, Event, Failed, Job, Piece
from deepseek_cli.serve.metrics import Metrics
from deepseek_cli.serve.seats import Seat, Seats
from deepseek_cli.serve.slots import Slots
from deepseek_cli.serve.waiting import Waiting

BESIDE = 48  # tokens of a prompt that are read at once where answers wait for their next token meanwhile
BESIDE_WIDE = 96  # the same in int8, which takes no longer

Deliver = Callable[[Sequence[tuple[Job, Event]]], object]


class Engine(threading.Thread):
    """All but `submit`, `close` and the flags of a job belongs to this thread. `deliver` gets what each round brought."""

    def __init__(self, slots: Slots, budget: int, deliver: Deliver, metrics: Metrics) -> None:
        super().__init__(name="engine", daemon=True)
        self.slots, self.seats, self.deliver, self.metrics = slots, Seats(slots, budget), deliver, metrics
        self.waiting, self.inbox = Waiting(), deque[Job]()
        self.outbox: list[tuple[Job, Event]] = []
        self.wake, self.closed = threading.Event(), False
        slots.before_run = self._flush  # other threads can do something about it while the model runs, and hardly before
        self.beside = BESIDE if slots.wide is slots.session else BESIDE_WIDE
        self.told = (0, 0, 0)  # queued, seated, left so far

    @property
    def queued(self) -> int:
        return len(self.inbox) + len(self.waiting)

    def submit(self, job: Job) -> None:
        self.inbox.append(job)
        self.wake.set()

    def close(self) -> None:
        """Stop behind the current round; whoever still waits is told."""
        self.closed = True
        self.wake.set()
        self.join()

    def run(self) -> None:
        while not self.closed:
            if not (self.inbox or self.waiting or self.seats.taken):
                self.wake.wait()
            self.wake.clear()
            try:
                self.round()
            except Exception as error:  # whatever the runtime says, nobody may be left waiting
                self._fail_all(error)
            if not self.seats.taken:  # nothing will run
                self._flush()
        self._fail_all(RuntimeError("the server stopped"))
        self._flush()

    def round(self) -> None:
        while self.inbox:
            self.waiting.add(self.inbox.popleft())
        self._drop()
        self._admit()
        self._read()
        self._step()
        self._tell_sizes()

    def _tell_sizes(self) -> None:
        """Where somebody came or left."""
        known = self.queued, len(self.seats.taken), self.seats.leavings
        if known != self.told:
            self.told = known
            self.metrics.sizes(*known[:2], self.seats.reserved * self.slots.token_bytes)

    def _drop(self) -> None:
        """Cancelled requests and those out of time."""
        now = time.monotonic()
        over = {job for job in self.waiting.all() if job.cancelled or job.deadline < now}
        if over:
            self.waiting.drop(over)
            self.outbox += [(job, End("timeout")) for job in over]
        for seat in list(self.seats.taken.values()):
            if seat.job.cancelled or seat.job.deadline < now:
                self._end(seat, "timeout")

    def _admit(self) -> None:
        while (job := self.waiting.first()) and self.seats.admit(job):
            self.waiting.take()
            self.metrics.waited(time.monotonic() - job.created)
        self.seats.close_gap()

    def _read(self) -> None:
        """One chunk of the prompt that came first."""
        reading = [seat for seat in self.seats.taken.values() if seat.token is None]
        if not reading:
            return
        seat = min(reading, key=lambda seat: (seat.reused is None, seat.job.created))
        if seat.reused is None:
            self.seats.begin(seat)
        done = self.slots.lengths[seat.slot]
        most = self.slots.chunk if len(reading) == len(self.seats.taken) else min(self.beside, self.slots.chunk)
        chunk = seat.job.prompt[done : done + (most if self.slots.grain == 1 else self.slots.grain)]
        self.seats.held[seat.slot] += chunk
        last = done + len(chunk) == len(seat.job.prompt)
        if seat.job.picker is None:
            states = self.slots.extend_hidden(seat.slot, chunk).sum(axis=0, dtype=np.float64)
            seat.hidden = states if seat.hidden is None else seat.hidden + states
        else:
            logits = self.slots.extend(seat.slot, chunk)
        self.metrics.read(len(chunk))
        if last and seat.job.picker is None:
            self._end(seat, "stop")
        elif last:
            self._take(seat, logits)

    def _step(self) -> None:
        """A token for every answer."""
        writing = {seat.slot: seat for seat in self.seats.taken.values() if seat.token is not None}
        if not writing:
            return
        fed = {slot: seat.token for slot, seat in writing.items() if seat.token is not None}
        started = time.perf_counter()
        logits = self.slots.step(fed)
        self.metrics.stepped(len(writing), time.perf_counter() - started)
        for slot, token in fed.items():
            self.seats.held[slot].append(token)
        for slot, seat in writing.items():
            self._take(seat, logits[slot])

    def _take(self, seat: Seat, logits: np.ndarray) -> None:
        """The next token of one answer, which ends here with it, or fails alone."""
        job, now = seat.job, time.monotonic()
        assert job.picker and job.writer
        try:
            token, scored = job.picker.pick(logits)
            text = "" if token in job.eos else job.writer.push(token)
        except Exception as error:  # of this request's own grammar or text: the others go on
            self.seats.leave(seat)
            self.outbox.append((job, Failed(error)))
            return
        self.metrics.token(now - seat.last if seat.new else now - job.created, first=not seat.new)
        seat.new, seat.last, seat.token = seat.new + 1, now, token
        if token in job.eos:
            self._end(seat, "stop")
            return
        self.outbox.append((job, Piece(text, scored)))
        if job.writer.stopped or (job.picker.grammar and job.picker.grammar.complete):
            self._end(seat, "stop")
        elif seat.new >= job.most:
            self._end(seat, "length")

    def _end(self, seat: Seat, reason: str) -> None:
        job = seat.job
        self.seats.leave(seat)
        if job.writer and (rest := job.writer.finish()):
            self.outbox.append((job, Piece(rest)))
        mean = None if seat.hidden is None else (seat.hidden / len(job.prompt)).astype(np.float32)
        self.outbox.append((job, End(reason, seat.new, seat.reused or 0, mean)))

    def _fail_all(self, error: Exception) -> None:
        for seat in list(self.seats.taken.values()):
            self.seats.leave(seat)
            self.outbox.append((seat.job, Failed(error)))
        jobs = [*self.waiting.all(), *self.inbox]
        self.waiting, self.inbox = Waiting(), deque()
        self.outbox += [(job, Failed(error)) for job in jobs]

    def _flush(self) -> None:
        if self.outbox:
            self.deliver(self.outbox)
            self.outbox = []
