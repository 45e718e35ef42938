"""A command line becomes a `Call`: Typer parses what the command's specs say, `settings` turns the text into values."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any

from deepseek_cli.commands._call import EVERYWHERE, GENERAL, Call, Common
from deepseek_cli.errors import UsageError
from deepseek_cli.output import Output, Result
from deepseek_cli.settings import Settings, Value, convert, require_known
from deepseek_cli.spec import Field, fields_of

PANELS = ("Get", "Transform", "Ship", "Measure", "Maintain")
SEE_HELP = "See: deepseek {command} --help"


@dataclass(frozen=True, slots=True)
class Argument:
    """One entry of a command's ARGUMENTS."""

    name: str
    optional: bool
    many: bool
    choices: tuple[str, ...]

    @property
    def metavar(self) -> str:
        shown = "|".join(self.choices) or self.name.upper()
        return f"[{shown.removesuffix('S')}...]" if self.many else f"[{shown}]" if self.optional else shown


def arguments_of(module: ModuleType) -> list[Argument]:
    parts = [re.fullmatch(r"(\w+)([?*]?)(?:=(.+))?", text) for text in module.ARGUMENTS]
    return [Argument(p[1], p[2] != "", p[2] == "*", tuple((p[3] or "").split("|")) if p[3] else ()) for p in parts if p]


def own_fields(module: ModuleType) -> dict[str, Field]:
    return fields_of(module.SPEC)


def common_fields(module: ModuleType) -> dict[str, Field]:
    """The shared options that the command takes."""
    names = {*EVERYWHERE, *getattr(module, "COMMON", ())}
    if any(field.option.rare for field in own_fields(module).values()):
        names.add("set")
    return {name: field for name, field in fields_of(Common).items() if name in names}


def flags_of(module: ModuleType) -> list[Field]:
    """Everything with a flag: the command's own options, then the shared ones."""
    return [f for f in (*own_fields(module).values(), *common_fields(module).values()) if not f.option.rare]


def parse(name: str, module: ModuleType, argv: Sequence[str]) -> dict[str, Any]:
    """What stands on the command line, as text, by option; `arguments` holds what is not an option.

    Raises UsageError. Typer's own exceptions are private and English, so that they are told apart by name here.
    """
    import typer

    def collect(**given: Any) -> dict[str, Any]:
        return given

    fields = flags_of(module)
    hints: dict[str, Any] = {f.name: Annotated[_shape(f), typer.Option(*f.flags, count=f.name == "verbose")] for f in fields}
    hints["arguments"] = Annotated[list[str] | None, typer.Argument()]
    parameters = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint) for n, hint in hints.items()
    ]
    collect.__signature__, collect.__annotations__ = inspect.Signature(parameters), hints  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, add_help_option=False)(collect)
    try:
        return typer.main.get_command(app).main(_with_values(argv, fields), prog_name=f"deepseek {name}", standalone_mode=False)
    except Exception as error:
        if getattr(error, "exit_code", None) != 2:
            raise
        raise _explain(name, error) from None


def _with_values(argv: Sequence[str], fields: Sequence[Field]) -> list[str]:
    """Typer has no flag that may stand alone or before a value: one that may, and stands alone, gets what it means there."""
    bare = {flag: f"{flag}={field.option.bare}" for field in fields if field.option.bare for flag in field.flags}
    pairs = itertools.zip_longest(argv, argv[1:], fillvalue="-")
    return [bare.get(word, word) if following.startswith("-") else word for word, following in pairs]


def _shape(field: Field) -> Any:
    """How Typer reads it. Values stay text: `settings.convert` reads them, wherever they come from."""
    if field.name == "verbose":
        return int | None
    return bool | None if field.kind is bool else list[str] | None if field.many else str | None


def _explain(name: str, error: Any) -> UsageError:
    option, close = getattr(error, "option_name", ""), getattr(error, "possibilities", None)
    match type(error).__name__:
        case "NoSuchOption":
            hint = "Did you mean {close}?" if close else SEE_HELP
            return UsageError(
                "{command} has no option {option}.", hint=hint, command=name, option=option, close=close[0] if close else ""
            )
        case "BadOptionUsage" if "requires" in str(error):
            return UsageError("{option} needs a value.", hint=SEE_HELP, option=option, command=name)
        case "BadOptionUsage":
            return UsageError("{option} takes no value.", hint=SEE_HELP, option=option, command=name)
    return UsageError("{reason}", hint=SEE_HELP, reason=error.format_message(), command=name)


def make_call(name: str, module: ModuleType, given: Mapping[str, Any], settings: Settings, output: Output) -> Call:
    """Arguments, spec and common options with their values. Raises UsageError for whatever does not fit."""
    own, shared = own_fields(module), common_fields(module)
    general = {n: field for n, field in shared.items() if n in GENERAL}
    settings.check(name, own | general)
    arguments = _arguments(name, arguments_of(module), list(given["arguments"] or []))
    spec = settings.resolve(name, own, {**given, **_set_values(given.get("set") or (), own)})
    common = settings.resolve(name, general, given, GENERAL)
    flags = {
        n: convert(field, given[n], field.flags[-1]) for n, field in shared.items() if n not in general and given[n] is not None
    }
    call = Call(name, arguments, module.SPEC(**_values(spec)), Common(**flags, **_values(common)), output, settings)
    for option, value in (spec | common).items() if call.common.verbose else ():
        if value.origin != "default":
            output.note("{option} = {value} ({origin})", option=option, value=value.value, origin=value.origin)
    return call


def run(module: ModuleType, call: Call) -> Result:
    """The command's work, recorded where --memory-profile asks for it."""
    if not call.common.memory_profile:
        return module.run(call)
    from deepseek_cli.commands._memory_profile import recorded

    return recorded(module.run, call)


def _values(resolved: Mapping[str, Value]) -> dict[str, Any]:
    return {name: value.value for name, value in resolved.items()}


def _set_values(items: Sequence[str], fields: Mapping[str, Field]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError("--set {item} is not of the form NAME=VALUE.", hint="For example: --set group=64", item=item)
        require_known(name, fields, "--set")
        found[name] = [*found.get(name, []), value] if fields[name].many else value
    return found


def _arguments(command: str, expected: Sequence[Argument], given: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for argument in expected:
        if argument.many:
            values[argument.name], given = tuple(given), []
            continue
        value = values[argument.name] = given.pop(0) if given else None
        if value is None and not argument.optional:
            hint = "It is one of: {names}." if argument.choices else SEE_HELP
            raise UsageError(
                "{command} needs {argument}.",
                hint=hint,
                command=command,
                argument=argument.name.upper(),
                names=", ".join(argument.choices),
            )
        if value is not None and argument.choices:
            require_known(value, argument.choices, command)
    if given:
        raise UsageError("{command} takes no argument {argument!r}.", hint=SEE_HELP, command=command, argument=given[0])
    return values
