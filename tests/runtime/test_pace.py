"""How far it pays to guess: far where guesses are right, not at all where they are wrong or rows are dear."""

from __future__ import annotations

import pytest

from deepseek_cli.runtime.pace import ALLOWANCE, CREDIT, MOST, RISE, SAVINGS, Pace


def decode(pace: Pace, tokens: int, chance: float, rise: float, grade: int = 2) -> float:
    """Seconds of decoding, where one row takes one, each more `rise`, and evenly `chance` of all guesses are right."""
    seconds, owed, made = 0.0, 0.0, 0
    while made < tokens:
        count, _ = pace.count(grade, tokens - made - 1)
        right = 0
        while right < count and (owed := owed + chance) >= 1:
            owed, right = owed - 1, right + 1
        taken = 1 + rise * count
        pace.took(1 + count, taken)
        if count:
            pace.learn(grade, count, right)
        seconds, made = seconds + taken, made + 1 + right
    return seconds


@pytest.mark.parametrize("rise", [0.05, 0.17, 0.28, 0.6, 1.0])
@pytest.mark.parametrize("chance", [0.0, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("tokens", [16, 64, 256, 2000])
def test_it_never_loses_more_than_its_allowance(tokens: int, chance: float, rise: float) -> None:
    first = max(rise / RISE, 1.0)  # what a row costs is not known before one was fed
    assert decode(Pace(), tokens, chance, rise) <= tokens * (1 + ALLOWANCE) + CREDIT * first + rise


def test_what_was_saved_is_not_lost_again() -> None:
    pace = Pace()
    saved = 500 - decode(pace, 500, 1.0, 0.25)
    assert saved > 250
    assert decode(pace, 500, 0.0, 0.25) <= 500 * (1 + ALLOWANCE) + SAVINGS + 1


def test_right_guesses_are_made_far_ahead() -> None:
    pace = Pace()
    assert decode(pace, 400, 1.0, 0.25) < 400 / 2.5
    assert [pace.count(2, most)[0] for most in (1000, 3, 0)] == [MOST, 3, 0]


@pytest.mark.parametrize(("chance", "rise"), [(0.05, 0.25), (0.9, 1.2)])
def test_it_stops_where_it_does_not_pay(chance: float, rise: float) -> None:
    pace = Pace()
    decode(pace, 300, chance, rise)
    assert pace.count(2, 100)[0] == 0


def test_it_starts_again_when_the_text_does() -> None:
    """What was wrong fades, as each grade has its own record and its own chance."""
    pace = Pace()
    decode(pace, 300, 0.0, 0.25, grade=1)
    assert pace.count(1, 100)[0] == 0 < pace.count(4, 100)[0]
