"""How far it pays to guess: by how often guesses were right, and by what a row more costs in a feed, both as measured."""

from __future__ import annotations

from collections import deque
from statistics import median

MOST = 16  # guesses in a feed
FADING = 0.9  # of what was seen, with each guess
RISE = 0.25  # of one row's time, what a row more was seen to cost in MatMulNBits: 0.17 - 0.28
REMEMBERED = 15  # times of feeds
ALLOWANCE = 0.02  # of plain decoding's time, what guessing may cost in all, and
CREDIT = 1.0  # steps of it at once
SAVINGS = 8.0  # steps that were saved and may be lost again


class Pace:
    """Decides by `grade`, the source's own measure of how sure it is of a guess; each is judged by what came true of it.

    Times are counted in plain steps. `balance` is what guessing has saved and may cost: no guess is made beyond it, so
    that a text which defies all guesses costs no more than the allowance.
    """

    def __init__(self) -> None:
        self.right: dict[int, float] = {}
        self.tried: dict[int, float] = {}
        self.steps: deque[float] = deque(maxlen=REMEMBERED)  # seconds of one row
        self.rises: deque[float] = deque([RISE], maxlen=REMEMBERED)
        self.balance = CREDIT

    @property
    def rise(self) -> float:
        """What a row more costs, in plain steps."""
        return max(median(self.rises), 0.0)

    def chance(self, grade: int) -> float:
        """That a guess is right where those before it were. Unseen grades are taken to be right half of the time, and more."""
        return (self.right.get(grade, 0.0) + grade) / (self.tried.get(grade, 0.0) + grade + 1)

    def count(self, grade: int, most: int) -> int:
        """How many guesses make the most tokens in a time; 0 where one row alone does, and before one was fed alone."""
        if not self.steps:
            return 0
        rise, chance = self.rise, self.chance(grade)
        most = min(most, MOST, int(self.balance / rise) if rise else MOST)
        count, best, tokens, likely = 0, 1.0, 1.0, 1.0
        for k in range(1, most + 1):
            likely *= chance
            tokens += likely
            if tokens / (1 + k * rise) > best:
                count, best = k, tokens / (1 + k * rise)
        return count

    def took(self, rows: int, seconds: float) -> None:
        """A feed of `rows` took so long."""
        if rows == 1:
            self.steps.append(seconds)
        elif self.steps:
            self.rises.append((seconds / median(self.steps) - 1) / (rows - 1))
        self.balance = min(self.balance + ALLOWANCE, SAVINGS)

    def learn(self, grade: int, count: int, right: int) -> None:
        """Of `count` guesses the first `right` came true; those behind the first wrong one were not judged."""
        self.right[grade] = FADING * self.right.get(grade, 0.0) + right
        self.tried[grade] = FADING * self.tried.get(grade, 0.0) + min(right + 1, count)
        self.balance = min(self.balance + right - count * self.rise, SAVINGS)
