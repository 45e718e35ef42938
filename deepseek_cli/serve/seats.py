"""Which request sits in which slot, and how much memory that may take: a budget in tokens that is never exceeded."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from deepseek_cli.ops.pages import PAGE
from deepseek_cli.runtime.chat_session import shared_prefix
from deepseek_cli.serve.job import Job
from deepseek_cli.serve.slots import Slots

WORTH = 16  # tokens that a prompt must share with a slot for its beginning to be taken from there


@dataclass(eq=False)
class Seat:
    """A request in a slot. `token` is the one to feed next, None as long as the prompt is being read."""

    job: Job
    slot: int
    token: int | None = None
    new: int = 0
    reused: int | None = None  # tokens of the prompt that were cached; None before it is begun
    last: float = 0.0  # when its newest token came
    hidden: np.ndarray | None = field(default=None)  # sum over the prompt so far


def rows(tokens: int) -> int:
    """Rows that so many tokens may make resident: whole pages of memory, and a step's row for a slot that only lies between."""
    return (tokens // PAGE + 2) * PAGE


class Seats:
    """`held[slot]` are the tokens cached in each slot, those of finished requests too: another may begin with them."""

    def __init__(self, slots: Slots, budget: int) -> None:
        self.slots, self.budget = slots, budget
        self.taken: dict[int, Seat] = {}
        self.held: list[list[int]] = [[] for _ in range(slots.count)]
        self.used: list[int] = [0] * slots.count  # when each was last left, in leavings
        self.leavings = 0

    @property
    def reserved(self) -> int:
        """Rows that all slots may hold with what was admitted."""
        return sum(rows(self.taken[i].job.tokens if i in self.taken else len(held)) for i, held in enumerate(self.held))

    @property
    def longest(self) -> int:
        """The most tokens that one request may hold, alone."""
        return min(self.slots.context, self.budget - rows(0) * (self.slots.count - 1) - 2 * PAGE)

    def admit(self, job: Job) -> Seat | None:
        """Seat it, where a slot and the budget allow; finished requests' tokens give way, the oldest first."""
        free = [i for i in range(self.slots.count) if i not in self.taken]
        if not free:
            return None
        slot = max(free, key=lambda i: (self._worth(job, i), -len(self.held[i]) if not self.used[i] else 0, -self.used[i], -i))
        self.taken[slot] = seat = Seat(job, slot)
        for oldest in sorted((i for i in free if i != slot and self.held[i]), key=self.used.__getitem__):
            if self.reserved <= self.budget:
                break
            self._forget(oldest)
        if self.reserved > self.budget:
            del self.taken[slot]
            return None
        return seat

    def begin(self, seat: Seat) -> None:
        """Start with what some slot already holds of the prompt; the last token is read in any case, for its logits.
        Hidden states are asked of all tokens: nothing is reused."""
        prompt, shares = seat.job.prompt, [self._worth(seat.job, i) for i in range(self.slots.count)]
        source = max(range(self.slots.count), key=lambda i: (shares[i], i == seat.slot))
        seat.reused = shares[source] if seat.job.picker else 0
        if seat.reused and source != seat.slot:
            self.slots.copy(source, seat.slot, seat.reused)
        self.slots.cut(seat.slot, seat.reused)
        self.held[seat.slot] = list(prompt[: seat.reused])

    def leave(self, seat: Seat) -> None:
        """What it cached stays for a while, but for a row that a step beside it may write, and for what another prompt could
        not have computed alike."""
        slot = seat.slot
        del self.taken[slot]
        kept = len(seat.job.prompt) if self.slots.grain > 1 else self.slots.context - 1
        self.slots.cut(slot, min(self.slots.lengths[slot], kept))
        self.held[slot] = self.held[slot][: self.slots.lengths[slot]]
        self.leavings += 1
        self.used[slot] = self.leavings

    def close_gap(self) -> None:
        """Move the last seat into a slot between the others that nobody sits in: steps compute those too."""
        if not (self.slots.batches and self.taken) or max(self.taken) - min(self.taken) < len(self.taken):
            return
        gap = next(i for i in range(min(self.taken), max(self.taken)) if i not in self.taken)
        last = max(self.taken)
        self.slots.exchange(gap, last)
        self.held[gap], self.held[last] = self.held[last], self.held[gap]
        self.used[gap], self.used[last] = self.used[last], self.used[gap]
        self.taken[gap] = self.taken.pop(last)
        self.taken[gap].slot = gap
        for slot in (gap, last):
            self.slots.cut(slot, self.slots.lengths[slot])

    def _worth(self, job: Job, slot: int) -> int:
        """Tokens that a slot saves the request, but for its last."""
        shared = shared_prefix(job.prompt[:-1], self.held[slot])
        shared -= shared % self.slots.grain
        return shared if shared >= WORTH else 0

    def _forget(self, slot: int) -> None:
        self.slots.cut(slot, 0)
        self.held[slot] = []
