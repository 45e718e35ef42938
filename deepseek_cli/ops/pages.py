"""Pages of keys: what sparse attention agrees on whoever computes it, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

PAGE = 16  # keys
RECENT = 1  # pages before the newest that are always attended to
TRUST = 0.25  # how much of the half-range counts: all of it favours pages of varied keys over pages of fitting ones


@dataclass(slots=True)
class Attended:
    """Pairs of query and key that were attended to, and that dense attention would have, over heads and layers."""

    pairs: int = 0
    of: int = 0
    queries: int = 0

    def expect(self, heads: int, past: int, new: int) -> None:
        self.queries += heads * new
        self.of += heads * pairs(past, new, past + new)

    @property
    def mean(self) -> float:
        """Keys that a query attended to."""
        return self.pairs / self.queries if self.queries else 0.0

    @property
    def dense(self) -> float:
        """Keys that it would have attended to."""
        return self.of / self.queries if self.queries else 0.0


def pairs(past: int, new: int, most: int) -> int:
    """Sum over `new` queries behind `past` keys of the keys each sees, at most `most`."""
    rising = max(0, min(new, most - past))
    return rising * past + rising * (rising + 1) // 2 + (new - rising) * most
