from __future__ import annotations

import pytest

from deepseek_cli.errors import UsageError
from deepseek_cli.schemes import Scheme, parse_scheme


@pytest.mark.parametrize(
    "name",
    [
        "int4-g32",
        "int4-g128-asym",
        "int4-g64-pos",
        "int3-g64",
        "int8-channel",
        "int8-g32-asym",
        "int4-g64-r16",
        "int8-channel-r8",
        "bf16",
    ],
)
def test_names_round_trip(name: str) -> None:
    assert str(parse_scheme(name)) == name


def test_short_names_take_defaults() -> None:
    assert parse_scheme("int4", 64) == Scheme(4, 64)
    assert parse_scheme("int8") == Scheme(8, 0)
    assert parse_scheme("int8-asym") == Scheme(8, 0, symmetric=False)


@pytest.mark.parametrize(
    "name",
    ["int2", "int3-channel", "int4-g16", "fp8", "", "int4-asym-g32", "int4-g32-asym-pos", "int4-channel", "int4-r0", "q4_k-r8"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        parse_scheme(name)


def test_bytes_count_codes_scales_and_zero_points() -> None:
    assert parse_scheme("int4-g32").bytes_of(16, 64) == 16 * 32 + 2 * 16 * 2
    assert parse_scheme("int4-g32-asym").bytes_of(16, 64) == 16 * 32 + 2 * 16 * 2 + 8 * 2
    assert parse_scheme("int4-g32-r8").bytes_of(16, 64) == 16 * 32 + 2 * 16 * 2 + 2 * 8 * (16 + 64)
    assert parse_scheme("int4-g32-r99").bytes_of(16, 64) == 16 * 32 + 2 * 16 * 2 + 2 * 16 * (16 + 64)
    assert parse_scheme("int3-g32-asym").bytes_of(16, 64) == 16 * 24 + 2 * 16 * 2 + 8 * 2
    assert parse_scheme("int8").bytes_of(16, 64) == 16 * 64 + 2 * 16
    assert parse_scheme("bf16").bytes_of(16, 64) == 2 * 16 * 64
