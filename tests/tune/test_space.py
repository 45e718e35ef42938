"""Spaces as people write them, and recipes as `quantize` reads them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from deepseek_cli.commands import _app, load
from deepseek_cli.errors import UsageError
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.tune.recipe import command_line, quantize_spec
from deepseek_cli.tune.space import Choice, Range, read_space


def space(tmp_path: Path, text: str) -> str:
    file = tmp_path / "space.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('shceme = ["int4"]', "Did you mean scheme?"),
        ('scheme = ["int5"]', "'int5'"),
        ("tokens = { low = 9, high = 8 }", "tokens cannot be"),
        ("tokens = { low = 1.5, high = 8 }", "tokens cannot be"),
        ("tokens = { low = 1, hihg = 8 }", "Did you mean high?"),
        ("steps = { low = 0, high = 8, log = true }", "starts above 0"),
        ("tokens = [0]", "tokens cannot be 0"),
        ("scheme = { low = 1, high = 2 }", "for numbers"),
        ('scheme = ["int4", "int4"]', "every choice once"),
        ('scheme = "int4"', "nothing to choose"),
        ('algorithm = ["gtpq"]', "no algorithm named"),
        ('level = ["bets"]', "Did you mean best?"),
        ('calibration = ["nowhere.txt"]', "nowhere.txt"),
        ("rules = 3", "Write a table"),
        ('[rules]\n"*.o_proj" = ["int9"]', "int9"),
        ("scheme = [", "cannot be read"),
    ],
)
def test_what_does_not_fit_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_space(space(tmp_path, text))
    assert said in str(caught.value)


def test_places_in_the_unit_interval_lead_back_to_their_values() -> None:
    for parameter in (*read_space("builtin"), Range("rate", 1e-4, 1e-2, True, False)):
        values = parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
        for value in values:
            assert parameter.value(parameter.unit(value)) == pytest.approx(value)


def test_a_recipe_says_nothing_of_text_to_who_looks_at_none() -> None:
    spec = quantize_spec({"scheme": "int4-g64", "algorithm": "rtn", "tokens": 4096, "seed": 2, "rules.*.o_proj": "body"})
    assert spec == QuantizeSpec(scheme="int4-g64", algorithm="rtn")


def test_the_command_line_of_a_recipe_is_read_as_that_recipe() -> None:
    recipe = {
        "scheme": "int4-g64",
        "algorithm": "gptq",
        "steps": 3,
        "rate": 0.002,
        "rules.*.o_proj": "int8",
        "embeddings": "bf16",
    }
    words = shlex.split(command_line("toy", recipe))
    given = _app.parse("quantize", load("quantize"), words[2:])
    assert given["arguments"] == ["toy"]
    assert given["rule"] == ["*.o_proj=int8"]
    assert set(given["set"]) == {"steps=3", "rate=0.002", "embeddings=bf16"}
    assert (given["scheme"], given["algorithm"]) == ("int4-g64", "gptq")
