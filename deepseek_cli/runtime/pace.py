"""How far it pays to guess: by how often guesses were right, and by what a row more costs in a feed, both as measured."""

from __future__ import annotations

from collections import deque

MOST = 16  # guesses in a feed
FADING = 0.9  # of what was seen, with each guess
RISE = 0.25  # of one row's time, what a row more was seen to cost in MatMulNBits: 0.17 - 0.28
OWN = 5  # the grade of guesses from there
GAIN = 1.25  # tokens in a plain step's time that these must promise: all that they cost is not counted
REMEMBERED = 15  # figures of a kind
ALLOWANCE = 0.02  # of plain decoding's time, what guessing may cost in all, and
CREDIT = 1.0  # steps of it at once
SAVINGS = 8.0  # steps that were saved and may be lost again


class Recent:
    """The last few figures of a kind, and their median: 0 before the first."""

    def __init__(self, *first: float) -> None:
        self.figures: deque[float] = deque(first, maxlen=REMEMBERED)
        self.median = sum(first)

    def add(self, figure: float) -> None:
        self.figures.append(figure)
        self.median = sorted(self.figures)[len(self.figures) // 2]


class Pace:
    """Decides by `grade`, the source's own measure of how sure it is of a guess; each is judged by what came true of it.

    Times are counted in plain steps. `balance` is what guessing has saved and may cost: no guess is made beyond it, so
    that a text which defies all guesses costs no more than the allowance.
    """

    def __init__(self) -> None:
        self.right: dict[int, float] = {}
        self.tried: dict[int, float] = {}
        self.steps, self.rises, self.drafts = Recent(), Recent(RISE), Recent()  # seconds of one row; the others in steps
        self.balance = CREDIT

    def cost(self, grade: int) -> float:
        """What a guess costs, in plain steps: a row more, and to make it."""
        return max(self.rises.median, 0.0) + (self.drafts.median if grade == OWN else 0.0)

    def chance(self, grade: int) -> float:
        """That a guess is right where those before it were. Unseen grades are taken to be right half of the time, and more."""
        return (self.right.get(grade, 0.0) + grade) / (self.tried.get(grade, 0.0) + grade + 1)

    def count(self, grade: int, most: int) -> tuple[int, float]:
        """How many guesses make the most tokens in a time, and how many in a plain step's; 0 where one row alone does, and
        before one was fed alone."""
        if not self.steps.median:
            return 0, 1.0
        cost, chance = self.cost(grade), self.chance(grade)
        most = min(most, MOST, int(self.balance / cost) if cost else MOST)
        count, best, tokens, likely = 0, 1.0, 1.0, 1.0
        for k in range(1, most + 1):
            likely *= chance
            tokens += likely
            if tokens / (1 + k * cost) > best:
                count, best = k, tokens / (1 + k * cost)
        return count, best

    def expect(self, share: float) -> None:
        """So much of a step a guess of grade OWN will take, as long as none was seen to."""
        if not self.drafts.figures:
            self.drafts.add(share)

    def drafted(self, seconds: float) -> None:
        """To make a guess of grade OWN took so long."""
        self.drafts.add(seconds / self.steps.median)

    def took(self, rows: int, seconds: float) -> None:
        """A feed of `rows` took so long."""
        if rows == 1:
            self.steps.add(seconds)
        elif self.steps.median:
            self.rises.add((seconds / self.steps.median - 1) / (rows - 1))
        self.balance = min(self.balance + ALLOWANCE, SAVINGS)

    def learn(self, grade: int, count: int, right: int) -> None:
        """Of `count` guesses the first `right` came true; those behind the first wrong one were not judged."""
        self.right[grade] = FADING * self.right.get(grade, 0.0) + right
        self.tried[grade] = FADING * self.tried.get(grade, 0.0) + min(right + 1, count)
        self.balance = min(self.balance + right - count * self.cost(grade), SAVINGS)
