"""A point of the space as what `quantize` is told, in Python and as a command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from deepseek_cli.quantize.algorithms import find_algorithm
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.schemes import DENSE, parse_scheme
from deepseek_cli.spec import as_record, fields_of
from deepseek_cli.tune.space import BODY, RULE, Value

Recipe = Mapping[str, Value]
OF_TEXT = ("tokens", "seed", "calibration", "steps", "rate")  # without meaning where no text is looked at


def quantize_spec(recipe: Recipe) -> QuantizeSpec:
    """The spec of a recipe, without what has no meaning beside the rest. Raises UsageError where `QuantizeSpec` does."""
    given: dict[str, Any] = {name: value for name, value in recipe.items() if not name.startswith(RULE)}
    rules = tuple(f"{name.removeprefix(RULE)}={v}" for name, v in recipe.items() if name.startswith(RULE) and v != BODY)
    if not _looks_at_text(given):
        given = {name: value for name, value in given.items() if name not in OF_TEXT}
    if not given.get("steps"):
        given.pop("rate", None)
    return QuantizeSpec(**given, rule=rules)


def _looks_at_text(given: Mapping[str, Any]) -> bool:
    algorithm, scheme = given.get("algorithm"), given.get("scheme")
    dense = scheme is not None and parse_scheme(scheme) is DENSE
    return not dense and (algorithm is None or find_algorithm(algorithm).needs != "nothing")


def command_line(model: str, recipe: Recipe) -> str:
    """The `deepseek quantize` that makes the same."""
    spec, fields = quantize_spec(recipe), fields_of(QuantizeSpec)
    words = ["deepseek", "quantize", model]
    for name, value in as_record(spec).items():
        field = fields.get(name)
        for one in value if isinstance(value, list) else [value]:
            if field is None:
                words += [f"--{name}", str(one)]  # an option that commands share
            else:
                words += ["--set", f"{name}={one}"] if field.option.rare else [field.flags[-1], str(one)]
    return shlex.join(words)
