"""Where the last tokens of a text stood before: the longest such place, of equals the latest, as the text grows and shrinks."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek_cli.runtime.lookup import LONGEST, LOOKED_AT, Lookup


def text(*tokens: int) -> Lookup:
    lookup = Lookup()
    lookup.add(tokens)
    return lookup


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ((), (0, 0)),
        ((1,), (0, 0)),
        ((1, 2, 3, 1), (0, 0)),  # one token alone says nothing
        ((1, 2, 3, 1, 2), (2, 2)),
        ((1, 2, 3, 1, 2, 4, 1, 2), (2, 5)),  # the latest
        ((9, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2), (3, 3)),  # the longest
        ((5, 5, 5), (2, 2)),
    ],
)
def test_the_longest_and_of_equals_the_latest(tokens: tuple[int, ...], match: tuple[int, int]) -> None:
    assert text(*tokens).match() == match


def test_it_finds_what_a_search_of_the_whole_text_finds() -> None:
    random = np.random.default_rng(1)
    for length in range(3, 60):
        tokens = random.integers(0, 4, length).tolist()
        found = text(*tokens).match()
        ends = range(len(tokens) - 1, max(1, len(tokens) - LOOKED_AT), -1)
        lengths = {end: range(min(end, LONGEST), 1, -1) for end in ends}
        alike = {end: next((n for n in lengths[end] if tokens[end - n : end] == tokens[-n:]), 0) for end in ends}
        longest = max(alike.values())
        assert found[0] >= longest
        if found[1] in alike:
            assert found == (longest, max(end for end, n in alike.items() if n == longest)) if longest else found == (0, 0)


def test_what_was_cut_off_is_not_found() -> None:
    lookup = text(1, 2, 3, 4, 1, 2, 7)
    lookup.cut(4)
    lookup.add([1, 2])
    assert (lookup.text, lookup.match()) == ([1, 2, 3, 4, 1, 2], (2, 2))
    assert lookup.places == text(1, 2, 3, 4, 1, 2).places | {(2, 7): []}


def test_beyond_the_end_a_text_repeats_itself() -> None:
    lookup = text(7, 1, 2, 3, 1, 2)
    assert lookup.behind(lookup.match()[1], 7) == [3, 1, 2, 3, 1, 2, 3]
