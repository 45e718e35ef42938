"""A verb's options, written once: a frozen dataclass is its flags, its table in deepseek.toml and its record in deepseek.json."""

from __future__ import annotations

import dataclasses
import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

from deepseek_cli.errors import UsageError

SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
Size = NewType("Size", int)  # a field of this type is written "4GB" and read as bytes
PACKED_CACHE = Size(10_000_000_000)  # what packed weights may take of the disk where they are needed, unless somebody says


def packed_bytes(asked: int | None, needed: bool) -> int:
    """What packed weights may take of the disk."""
    return (PACKED_CACHE if needed else 0) if asked is None else asked


@dataclass(frozen=True, slots=True)
class Option:
    """What the command line says about a field. A rare one has no flag: `--set name=value` or deepseek.toml reach it. One that
    is not brief has its flag, and is explained in the full help only.

    `bare` is what the flag means where no value follows it; without it there must be one.
    """

    help: str
    flag: str = ""  # overrides the flag made from the field's name
    metavar: str = ""
    rare: bool = False
    bare: str = ""
    brief: bool = True


def option(
    default: Any, *, help: str, flag: str = "", metavar: str = "", rare: bool = False, bare: str = "", brief: bool = True
) -> Any:
    """A dataclass field that carries its help."""
    return dataclasses.field(default=default, metadata={"option": Option(help, flag, metavar, rare, bare, brief)})


def as_record(spec: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, as plain JSON values."""
    changed = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if getattr(spec, f.name) != f.default}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a spec, read: what settings convert to, and what help and completion show."""

    name: str
    kind: Any  # bool, int, float, str, Path or Size
    choices: tuple[Any, ...]
    many: bool
    default: Any
    option: Option

    @property
    def flags(self) -> tuple[str, ...]:
        """`-o/--output` gives both; the last one is the long one. A rare field has none but `--set`."""
        return (
            (f"--set {self.name}",)
            if self.option.rare
            else tuple((self.option.flag or f"--{self.name.replace('_', '-')}").split("/"))
        )

    @property
    def metavar(self) -> str:
        names = {int: "N", float: "X", Path: "PATH", Size: "SIZE"}
        return self.option.metavar or "|".join(map(str, self.choices)) or names.get(self.kind, "TEXT")


def fields_of(spec: type) -> dict[str, Field]:
    """The options of a spec by name: what else it holds comes from options that commands share."""
    hints = get_type_hints(spec)
    return {f.name: _field(f, hints[f.name]) for f in dataclasses.fields(spec) if "option" in f.metadata}


def _field(field: dataclasses.Field, hint: Any) -> Field:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (h for h in get_args(hint) if h is not types.NoneType)
    many = get_origin(hint) is tuple
    if many:
        hint = get_args(hint)[0]
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    kind = type(choices[0]) if choices else hint
    return Field(field.name, kind, choices, many, field.default, field.metadata["option"])


def parse_size(text: str) -> int:
    """Bytes of "900MB", "4 GB" (powers of 1000), "1.5GiB" (of 1024) or a bare number.

    Raises UsageError for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", text.strip().lower())
    if not match:
        raise UsageError("{text!r} is not a size.", hint="Write it like 900MB, 4GB or 1.5GiB.", text=text)
    amount, prefix, binary = match.groups()
    return round(float(amount) * (1024 if binary else 1000) ** " kmgt".index(prefix or " "))


def parse_share(text: str) -> float | None:
    """0.05 of "5%"; None for anything else."""
    match = SHARE.fullmatch(text)
    return float(match[1]) / 100 if match else None


def format_count(count: float) -> str:
    """Parameters as people read them: "1.78 B", "135 M"."""
    for unit in ("", "k", "M", "B"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}".rstrip()
        count /= 1000
    return f"{count:.3g} T"


def format_size(size_bytes: float) -> str:
    """Bytes as people read them, in powers of 1000: "3.1 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 999.5:
            return f"{size_bytes:.0f} {unit}" if unit == "B" or size_bytes >= 100 else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
