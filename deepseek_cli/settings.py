"""Where a value comes from: the command line, DEEPSEEK_* variables, ./deepseek.toml, the user's config.toml, or its default.

A settings file:

    model = "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"     # meant where MODEL is left out
    threads = 4                                                # for every command that has it

    [quantize]                                                 # a command's options, written with underscores
    group = "64"
    [quantize.rules]                                           # the items of a repeatable option, in order
    "lm_head" = "int8"
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from deepseek_cli.errors import UsageError
from deepseek_cli.spec import Field, Size, parse_size

PROJECT_FILE = "deepseek.toml"
VARIABLES = {
    "DEEPSEEK_HOME": "Where results and manifests lie.",
    "DEEPSEEK_LANG": "The language of messages: en or zh.",
    "DEEPSEEK_DEBUG": "1 shows the traceback of every error.",
    "DEEPSEEK_NO_PLUGINS": "1 hides installed plug-ins.",
    "DEEPSEEK_<OPTION>": "An option of every command, such as DEEPSEEK_OFFLINE, DEEPSEEK_COLOR, DEEPSEEK_YES, DEEPSEEK_THREADS.",
    "DEEPSEEK_<COMMAND>_<OPTION>": "An option of one command, such as DEEPSEEK_QUANTIZE_GROUP.",
}
EXPECTED = {
    bool: "It is true or false.",
    int: "It is a whole number.",
    float: "It is a number.",
    str: "It is a text, in quotes.",
    Path: "It is a path, in quotes.",
    Size: "It is a size, such as 900MB, 4GB or 1.5GiB.",
}
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class SettingsFile:
    path: Path
    shown: str  # the path as messages and `config show` name it
    table: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Value:
    value: Any
    origin: str  # a flag, a variable, "FILE: [table] key", or "default"


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path
    home_origin: str
    model: str  # "" where no settings file names one
    model_origin: str
    files: tuple[SettingsFile, ...]  # nearest first
    environ: Mapping[str, str]

    def resolve(
        self, command: str, fields: Mapping[str, Field], given: Mapping[str, Any], general: Collection[str] = ()
    ) -> dict[str, Value]:
        """Each field's value and origin; `given` is what stands on the command line.

        Fields named in `general` also listen to DEEPSEEK_<FIELD> and to the top of a settings file. Raises UsageError
        for a value that does not fit, naming where it stands.
        """
        found = {}
        for name, field in fields.items():
            raw, origin = next(self._candidates(command, field, given, name in general))
            found[name] = Value(field.default if origin == "default" else convert(field, raw, origin), origin)
        return found

    def check(self, command: str, fields: Mapping[str, Field]) -> None:
        """Raises UsageError for a variable or a key of the command's table that names none of its options."""
        prefix = f"DEEPSEEK_{command.upper()}_"
        for variable in self.environ:
            if variable.startswith(prefix):
                require_known(variable, [prefix + name.upper() for name in fields], "the environment")
        for file in self.files:
            for key, value in file.table.get(command, {}).items():
                place, many = f"{file.shown}: [{command}]", isinstance(value, dict)
                require_known(key, [f"{name}s" for name, f in fields.items() if f.many] if many else fields, place)
                if many and key[:-1] in file.table[command]:
                    raise UsageError("{place} has both {one} and {many}.", hint="Keep one.", place=place, one=key[:-1], many=key)

    def _candidates(self, command: str, field: Field, given: Mapping[str, Any], general: bool) -> Iterator[tuple[Any, str]]:
        name, items = field.name, self._items(command, field.name)
        if given.get(name) is not None:
            yield ((*items, *given[name]) if field.many else given[name]), field.flags[-1]
        for variable in (f"DEEPSEEK_{command}_{name}".upper(), *([f"DEEPSEEK_{name}".upper()] if general else [])):
            if self.environ.get(variable):
                yield self.environ[variable], variable
        if items:
            yield items, f"{self.files[0].shown}: [{command}.{name}s]"
        for file in self.files:
            if name in file.table.get(command, {}):
                yield file.table[command][name], f"{file.shown}: [{command}] {name}"
            if general and name in file.table:
                yield file.table[name], f"{file.shown}: {name}"
        yield None, "default"

    def _items(self, command: str, name: str) -> tuple[str, ...]:
        """`[quantize.rules]` as items of `rule`: the user's first and the project's after them, as the last one counts."""
        tables = [file.table.get(command, {}).get(f"{name}s", {}) for file in reversed(self.files)]
        return tuple(f"{key}={value}" for table in tables for key, value in table.items())


def read_settings(
    folder: Path, environ: Mapping[str, str], commands: Collection[str] = (), general: Collection[str] = ()
) -> Settings:
    """The settings files that hold in `folder`. Given the names of all commands and general options, their top level is
    checked; a command's own options are checked when it asks for them.

    Raises UsageError for a file that cannot be read, or holds an unknown key or table.
    """
    candidates = ((folder / PROJECT_FILE, f"./{PROJECT_FILE}"), (user_file(environ), str(user_file(environ))))
    files = tuple(SettingsFile(path, shown, _read(path, shown)) for path, shown in candidates if path.is_file())
    for file in files:
        for key, value in file.table.items():
            if commands:
                require_known(key, commands if isinstance(value, dict) else [*general, "model", "home"], file.shown)
            if key in ("model", "home") and not isinstance(value, str):
                raise UsageError(
                    "{origin} is {value!r}, not a text.", hint="Write it in quotes.", origin=f"{file.shown}: {key}", value=value
                )
    model, model_origin = next(((f.table["model"], f.shown) for f in files if "model" in f.table), ("", "default"))
    home, home_origin = _home(environ, files)
    return Settings(home, home_origin, model, model_origin, files, environ)


def _home(environ: Mapping[str, str], files: tuple[SettingsFile, ...]) -> tuple[Path, str]:
    if environ.get("DEEPSEEK_HOME"):
        return Path(environ["DEEPSEEK_HOME"]).expanduser().absolute(), "DEEPSEEK_HOME"
    for file in files:
        if "home" in file.table:
            return file.path.parent.absolute() / Path(file.table["home"]).expanduser(), f"{file.shown}: home"
    return _user_folder(environ, "XDG_DATA_HOME", ".local/share", "LOCALAPPDATA") / "deepseek", "default"


def user_file(environ: Mapping[str, str]) -> Path:
    """The user's own settings, whether or not the file exists."""
    return _user_folder(environ, "XDG_CONFIG_HOME", ".config", "APPDATA") / "deepseek" / "config.toml"


def _user_folder(environ: Mapping[str, str], xdg: str, below_home: str, windows: str) -> Path:
    if environ.get(xdg):
        return Path(environ[xdg])
    if sys.platform == "win32" and environ.get(windows):
        return Path(environ[windows])
    try:
        return Path.home() / ("Library/Application Support" if sys.platform == "darwin" else below_home)
    except RuntimeError:
        raise UsageError("This user has no home folder.", hint="Set DEEPSEEK_HOME and {variable}.", variable=xdg) from None


def _read(path: Path, shown: str) -> dict[str, Any]:
    import tomli

    try:
        return tomli.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors put a byte order mark in front
    except (OSError, ValueError) as error:
        raise UsageError(
            "{file} cannot be read: {reason}.", hint="Correct it, or move it away.", file=shown, reason=error
        ) from None


def require_known(name: str, names: Collection[str], place: str) -> None:
    """Raises UsageError for a name that is none of `names`, with the closest one."""
    if name not in names:
        close, known = "".join(difflib.get_close_matches(name, names, 1)), ", ".join(names)
        hint = "Did you mean {close}?" if close else "Known are: {known}." if known else "It has none."
        raise UsageError("{place}: {name!r} is unknown.", hint=hint, place=place, name=name, close=close, known=known)


def convert(field: Field, raw: Any, origin: str) -> Any:
    """What was written, as the field's type: text from flags and variables, TOML values from files.

    Raises UsageError naming the origin and what would fit.
    """
    if not field.many:
        return _one(field, raw, origin)
    if isinstance(raw, str):
        raw = raw.split()
    if not isinstance(raw, (list, tuple)):
        _refuse(field, raw, origin)
    return tuple(_one(field, item, origin) for item in raw)


def _one(field: Field, raw: Any, origin: str) -> Any:
    text = isinstance(raw, str)
    if field.choices:
        found = [choice for choice in field.choices if str(choice) == str(raw)]
        return found[0] if found else _refuse(field, raw, origin)
    if field.kind is bool and (isinstance(raw, bool) or (text and raw.lower() in TRUE + FALSE)):
        return raw.lower() in TRUE if text else raw
    if field.kind in (str, Path) and text:
        return Path(raw).expanduser() if field.kind is Path else raw
    if field.kind is str and isinstance(raw, int) and not isinstance(raw, bool):  # a list of one number, without its quotes
        return str(raw)
    if field.kind in (int, float, Size) and not isinstance(raw, bool) and (text or isinstance(raw, (int, float))):
        try:
            return parse_size(str(raw)) if field.kind is Size else field.kind(raw if text or field.kind is float else str(raw))
        except (ValueError, UsageError):
            pass
    return _refuse(field, raw, origin)


def _refuse(field: Field, raw: Any, origin: str) -> NoReturn:
    if field.choices:
        names = [str(choice) for choice in field.choices]
        close = difflib.get_close_matches(str(raw), names, 1)
        hint = "Did you mean {close}?" if close else "It is one of: {names}."
        raise UsageError(
            "{origin} cannot be {value!r}.", hint=hint, origin=origin, value=raw, names=", ".join(names), close="".join(close)
        )
    raise UsageError("{origin} cannot be {value!r}.", hint=EXPECTED[field.kind], origin=origin, value=raw)
