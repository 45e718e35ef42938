"""Speculative decoding: the model checks several tokens at once, the first picked, the others guessed (arXiv 2211.17192).

Guesses come from the text itself (prompt lookup), or one from the model's own multi-token-prediction layer (DeepSeek-V3,
arXiv 2412.19437, section 5.4.3). A guess only saves time: each token is picked from logits that the model itself gave for
the same text.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import numpy as np

from deepseek_cli.runtime.lookup import Lookup
from deepseek_cli.runtime.pace import GAIN, OWN, Pace
from deepseek_cli.runtime.session import Session


class DraftingSession(Session, Protocol):
    def draft(self, token: int) -> int: ...


class Drafter:
    """Guesses what a session will say, from all that was said to it and by it, and learns where that pays."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.lookup, self.pace, self.clock = Lookup(), Pace(), clock
        self.grade = self.pending = 0  # of the last guesses, and how many of them are not judged yet

    def begin(self, position: int, prompt: Sequence[int]) -> None:
        """`prompt` is fed behind the `position` tokens that a session still holds."""
        self.lookup.cut(position)
        self.lookup.add(prompt)

    def guess(self, token: int, most: int, session: DraftingSession | None = None) -> list[int]:
        """At most `most` tokens behind `token`, the last one that was added; none where that would not pay. `session` may guess
        one, too."""
        alike, place = self.lookup.match()
        grade = (alike - 1).bit_length()  # 2 alike, 3 and 4, 5 to 8, more
        count, rate = self.pace.count(grade, most) if alike else (0, 1.0)
        if session and self.pace.count(OWN, min(most, 1))[1] > max(rate, GAIN):
            self.grade, start = OWN, self.clock()
            guesses = [session.draft(token)]
            self.pace.drafted(self.clock() - start)
        else:
            self.grade, guesses = grade, self.lookup.behind(place, count)
        self.pending = len(guesses)
        return guesses

    def judge(self, wrong: int) -> None:
        """All of the last guesses came true, but for the last `wrong`."""
        if self.pending:
            self.pace.learn(self.grade, self.pending, self.pending - wrong)
            self.pending = 0


class Stepper:
    """Called with each token that was picked, gives the logits behind it: by one feed, or from a guess that was right."""

    def __init__(self, session: Session, drafter: Drafter | None = None) -> None:
        self.session, self.drafter = session, drafter
        self.drafting = cast(DraftingSession, session) if getattr(session, "drafts", False) else None
        self.ahead: deque[tuple[int, np.ndarray]] = deque()  # guesses that were fed, and the logits behind each
        self.guesses = self.hits = 0

    def __call__(self, token: int, most: int) -> np.ndarray:
        """float32 [vocabulary], valid until the next call; `most` tokens, at most, will be picked from now on."""
        if self.drafter:
            self.drafter.lookup.add([token])
        if self.ahead and self.ahead[0][0] == token:
            self.hits += 1
            return self.ahead.popleft()[1]
        self.finish()
        guesses = self._guess(token, min(most, self.session.context - self.session.position) - 1)
        rows = self._feed([token, *guesses])
        self.ahead.extend(zip(guesses, rows[1:], strict=True))
        self.guesses += len(guesses)
        return rows[0]

    def finish(self) -> None:
        """Take back the guesses that were not picked."""
        if self.drafter:
            self.drafter.judge(len(self.ahead))
        if self.ahead:
            self.session.rewind(self.session.position - len(self.ahead))
            self.ahead.clear()

    def _guess(self, token: int, most: int) -> list[int]:
        if self.drafter:
            return self.drafter.guess(token, most, self.drafting)
        return [self.drafting.draft(token)] if self.drafting and most > 0 else []

    def _feed(self, tokens: Sequence[int]) -> np.ndarray:
        if not self.drafter:
            return self.session.feed(tokens, keep=len(tokens))
        start = self.drafter.clock()
        rows = self.session.feed(tokens, keep=len(tokens))
        self.drafter.pace.took(len(tokens), self.drafter.clock() - start)
        return rows
