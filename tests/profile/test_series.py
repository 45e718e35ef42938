from __future__ import annotations

import pytest

from deepseek_cli.profile.series import thin, trend


def test_thinning_keeps_the_peak_and_the_order() -> None:
    samples = [(float(i), 10 + (990 if i == 4321 else i % 5), 0) for i in range(9000)]
    kept = thin(samples, 1500)
    assert len(kept) <= 1500
    assert kept == sorted(kept)
    assert (4321.0, 1000, 0) in kept
    assert min(s[1] for s in kept) == 10


def test_a_straight_line_has_one_slope() -> None:
    found = trend([5.0, 8.0, 11.0, 14.0, 17.0])
    assert found.low == pytest.approx(found.slope) == pytest.approx(found.high) == 3


def test_the_interval_is_student_s() -> None:
    """By hand: a standard error of sqrt(3.6 / 3 / 10), and 3.1824 of them with three degrees of freedom."""
    found = trend([1.0, 3.0, 2.0, 5.0, 4.0])
    assert found.slope == pytest.approx(0.8)
    assert (found.low, found.high) == pytest.approx((-0.3024, 1.9024), abs=0.01)
