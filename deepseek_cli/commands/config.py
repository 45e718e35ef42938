"""`deepseek config`: what is set, and where it is set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deepseek_cli.commands import COMMANDS, load
from deepseek_cli.commands._app import common_fields, own_fields
from deepseek_cli.commands._call import GENERAL, Call, Common
from deepseek_cli.i18n import t
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.settings import VARIABLES, user_file
from deepseek_cli.spec import fields_of, option

ARGUMENTS = ("action?=show|path",)
EXAMPLES = ["deepseek config show --origin", "deepseek config path"]


@dataclass(frozen=True, slots=True)
class ConfigSpec:
    origin: bool = option(False, help="say where each value comes from")
    all: bool = option(False, help="also show the options that are left at their defaults")


SPEC = ConfigSpec


def run(call: Call) -> Result:
    return _path(call) if call.arguments["action"] == "path" else _show(call)


def _show(call: Call) -> Result:
    rows = [row for row in _values(call) if call.spec.all or "." not in row[0] or row[2] != "default"]
    table = Table(("name", "value", "origin"), rows) if call.spec.origin else Table(("name", "value"), [row[:2] for row in rows])
    data = {"values": [{"name": name, "value": value, "origin": origin} for name, value, origin in rows]}
    return Result(data, [table], "\n".join(f"{row[0]}={row[1]}" for row in rows))


def _values(call: Call) -> Iterator[tuple[str, Any, str]]:
    """Name, value and origin: first what holds for every command, then every command's own options, checked."""
    settings = call.settings
    yield "home", str(settings.home), settings.home_origin
    yield "model", settings.model or None, settings.model_origin
    general = {name: field for name, field in fields_of(Common).items() if name in GENERAL}
    for name, value in settings.resolve("", general, {}, GENERAL).items():
        yield name, value.value, value.origin
    for command in COMMANDS:
        module = load(command)
        own = own_fields(module)
        settings.check(command, own | {n: f for n, f in common_fields(module).items() if n in GENERAL})
        for name, value in settings.resolve(command, own, {}).items():
            yield f"{command}.{name}", list(value.value) if isinstance(value.value, tuple) else value.value, value.origin


def _path(call: Call) -> Result:
    file, read = user_file(call.settings.environ), [found.path.absolute() for found in call.settings.files]
    lines = [
        Line("Your settings: {path}", path=file),
        Line("A project's settings: {path}", path="./deepseek.toml"),
        Line("Environment:"),
    ]
    data = {"user": file, "read": read, "variables": VARIABLES}
    return Result(
        data, [*lines, Table(("variable", "meaning"), [(name, t(meaning)) for name, meaning in VARIABLES.items()])], str(file)
    )
