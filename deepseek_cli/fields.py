"""Typed reads of a hostile JSON object: every value is checked before anything is built from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelCorrupt, ModelUnsupported

MAX_JSON_BYTES = 64 << 20
MAX_COUNT = 1 << 31


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises ModelCorrupt when the file is missing, too large, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelCorrupt("{file} is larger than any real configuration.", hint="Look at where it comes from.", file=path)
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelCorrupt("{file} is missing.", hint="Pull the model again, or name another folder.", file=path) from None
    return parse_json(data, path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object from the bytes of a file. Raises ModelCorrupt when it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt("{file} is not valid JSON: {reason}.", hint="Pull the model again.", file=path, reason=error) from None
    if not isinstance(value, dict):
        raise ModelCorrupt("{file} does not hold a JSON object.", hint="Pull the model again.", file=path)
    return value


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and the file it came from. Without a default a missing field is an error that names it."""

    values: Mapping[str, Any]
    file: Path

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = MAX_COUNT) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, default: float | None = None, *, low: float = 0.0, high: float = 1e12) -> float:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            raise self.wrong(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def choice(self, name: str, known: Iterable[str], default: str | None = None) -> str:
        """One of the `known` words.

        Raises ModelUnsupported for another, which lists them.
        """
        value = self.text(name, default)
        if value not in known:
            raise ModelUnsupported(
                "{file}: {field} {value} is not supported.",
                hint="Supported are {known}.",
                file=self.file,
                field=name,
                value=value,
                known=", ".join(known),
            )
        return value

    def object(self, name: str) -> Fields | None:
        """A nested object, or None where the field is absent or null."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value, self.file)

    def floats(self, name: str) -> tuple[float, ...]:
        value = self._get(name, None)
        if not isinstance(value, list) or not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
            raise self.wrong(name, "a list of numbers")
        return tuple(float(v) for v in value)

    def ids(self, name: str) -> tuple[int, ...]:
        """One token id, a list of them, or none."""
        value = self.values.get(name)
        found = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < MAX_COUNT for v in found):
            raise self.wrong(name, "a token id or a list of them")
        return tuple(found)

    def wrong(self, name: str, wanted: str) -> ModelCorrupt:
        return ModelCorrupt(
            "{file}: {field} must be {wanted}, not {value}.",
            hint="Pull the model again, or check where it comes from.",
            file=self.file,
            field=name,
            wanted=wanted,
            value=repr(self.values.get(name))[:60],
        )

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name, default)
        if value is None and default is not None:
            return default
        if value is None:
            raise ModelCorrupt(
                "{file} lacks the field {field}.",
                hint="Pull the model again, or name another folder.",
                file=self.file,
                field=name,
            )
        return value
