"""Guesses from the text itself: what stood behind the last tokens where they stood before (prompt lookup decoding)."""

from __future__ import annotations

from collections.abc import Sequence

SHORTEST, LONGEST = 2, 16  # tokens that must be, and need be, alike
LOOKED_AT = 32  # places, the latest: of a pair of tokens there may be thousands


class Lookup:
    """A text that grows at its end, and where each of its pairs of tokens ends."""

    def __init__(self) -> None:
        self.text: list[int] = []
        self.places: dict[tuple[int, ...], list[int]] = {}

    def add(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.text.append(token)
            if len(self.text) >= SHORTEST:
                self.places.setdefault(self._last(), []).append(len(self.text))

    def cut(self, length: int) -> None:
        while len(self.text) > length:
            if len(self.text) >= SHORTEST:
                self.places[self._last()].pop()  # they were added in order
            self.text.pop()

    def match(self) -> tuple[int, int]:
        """How many last tokens stood before, and where they ended there: the longest such text, of equals the latest."""
        best = (0, 0)
        for end in self.places.get(self._last(), [])[-2 : -2 - LOOKED_AT : -1]:  # the last is the end itself
            alike = self._alike(end)
            if alike > best[0]:
                best = (alike, end)
            if alike == LONGEST:
                break
        return best

    def behind(self, place: int, count: int) -> list[int]:
        """The `count` tokens behind `place`; beyond the end the text goes on as it repeats itself."""
        period = len(self.text) - place
        return [self.text[place + i % period] for i in range(count)]

    def _last(self) -> tuple[int, ...]:
        return tuple(self.text[-SHORTEST:])

    def _alike(self, end: int) -> int:
        """How many tokens before `end` are the text's last, SHORTEST of which are known to be."""
        alike = SHORTEST
        while alike < min(end, LONGEST) and self.text[end - 1 - alike] == self.text[-1 - alike]:
            alike += 1
        return alike
