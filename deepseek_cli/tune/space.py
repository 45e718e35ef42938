"""What may be tried: by name a list of choices or a range, read from TOML."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from deepseek_cli.errors import UsageError
from deepseek_cli.quantize.algorithms import LEVELS, find_algorithm
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.settings import require_known

BUILTIN = Path(__file__).parent / "builtin.toml"
RULES = "rules"
RULE = f"{RULES}."  # begins the name of a pattern's scheme
BODY = "body"  # the scheme of whatever no rule names
Value = str | int | float


@dataclass(frozen=True, slots=True)
class Choice:
    """`values` stand in an order that a sampler of numbers may follow."""

    name: str
    values: tuple[Value, ...]

    def unit(self, value: Value) -> float:
        """The value's place in 0…1."""
        return self.values.index(value) / max(len(self.values) - 1, 1)

    def value(self, unit: float) -> Value:
        return self.values[round(unit * (len(self.values) - 1))]

    def record(self) -> Any:
        return list(self.values)


@dataclass(frozen=True, slots=True)
class Range:
    name: str
    low: float
    high: float
    log: bool
    whole: bool

    def unit(self, value: Value) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, float(value)))
        return (at - low) / (high - low)

    def value(self, unit: float) -> Value:
        low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
        at = low + unit * (high - low)
        found = min(max(math.exp(at) if self.log else at, self.low), self.high)
        return round(found) if self.whole else found

    def record(self) -> Any:
        return {"low": self.low, "high": self.high, "log": self.log}


Parameter = Choice | Range


@dataclass(frozen=True, slots=True)
class Key:
    """`check` raises UsageError, or ValueError, for a value that is none; `number` is its type where a range makes sense."""

    check: Callable[[Any], object]
    number: type[int] | type[float] | None = None
    least: float = 0


def _level(name: Any) -> None:
    require_known(name, LEVELS, "level")


def _text(source: Any) -> None:
    if source != "builtin" and not Path(source).is_file():
        raise ValueError


KEYS: Mapping[str, Key] = {  # the names are those of fields of QuantizeSpec
    "scheme": Key(parse_scheme),
    "embeddings": Key(parse_scheme),
    "algorithm": Key(find_algorithm),
    "level": Key(_level),
    "calibration": Key(_text),
    "tokens": Key(int, int, least=1),
    "seed": Key(int, int),
    "steps": Key(int, int),
    "rate": Key(float, float, least=1e-9),
}


def read_space(source: str) -> tuple[Parameter, ...]:
    """The parameters of a TOML file, or of the built-in one.

    Raises UsageError for a file that cannot be read, an unknown key, and values that do not fit theirs.
    """
    import tomli

    file = BUILTIN if source == "builtin" else Path(source)
    try:
        table = tomli.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError("{file} cannot be read: {reason}.", hint="Correct it.", file=source, reason=error) from None
    rules = table.pop(RULES, {})
    if not isinstance(rules, dict):
        _refuse(source, RULES, rules, 'Write a table: [rules] and "*.down_proj" = ["body", "int8"].')
    for name in table:
        require_known(name, [*KEYS, RULES], source)
    rule = Key(lambda scheme: scheme == BODY or parse_scheme(scheme))
    found = [_parameter(source, name, given, KEYS[name]) for name, given in table.items()]
    found += [_parameter(source, f"{RULE}{pattern}", given, rule) for pattern, given in rules.items()]
    if not any(isinstance(p, Range) or len(p.values) > 1 for p in found):
        raise UsageError("{file} leaves nothing to choose.", hint='Write a list: scheme = ["int4-g64", "int8"].', file=source)
    return tuple(found)


def _parameter(source: str, name: str, given: Any, key: Key) -> Parameter:
    if isinstance(given, dict):
        return _range(source, name, given, key)
    values = given if isinstance(given, list) else [given]
    if not values or len(set(map(str, values))) < len(values):
        _refuse(source, name, given, "Give every choice once.")
    for value in values:
        try:
            if not isinstance(value, key.number or str) or isinstance(value, bool) or (key.number and value < key.least):  # type: ignore[operator]
                raise ValueError
            key.check(value)
        except ValueError:
            _refuse(source, name, value, "See: deepseek quantize --help")
    return Choice(name, tuple(values))


def _range(source: str, name: str, given: dict[str, Any], key: Key) -> Range:
    for word in given:
        require_known(word, ("low", "high", "log"), f"{source}: {name}")
    low, high = given.get("low"), given.get("high")
    kinds = (int, float) if key.number is float else (int,)
    numbers = all(isinstance(v, kinds) and not isinstance(v, bool) for v in (low, high))
    if not key.number or not numbers or not key.least <= low < high:  # type: ignore[operator]
        _refuse(source, name, given, "A range is {{ low = 2048, high = 16384, log = true }}, and for numbers.")
    log = bool(given.get("log", False))
    if log and not low:
        _refuse(source, name, given, "A logarithmic range starts above 0.")
    return Range(name, low, high, log, key.number is int)  # type: ignore[arg-type]


def _refuse(source: str, name: str, value: Any, hint: str) -> NoReturn:
    raise UsageError("{file}: {name} cannot be {value!r}.", hint=hint, file=source, name=name, value=value)
