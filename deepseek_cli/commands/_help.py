"""Help, rendered from the same specs that the command line is parsed with."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from types import ModuleType

from deepseek_cli.commands import COMMANDS
from deepseek_cli.commands._app import PANELS, arguments_of, common_fields, own_fields
from deepseek_cli.commands._call import EVERYWHERE, Common
from deepseek_cli.i18n import NO_BREAK, cells, t, wrap
from deepseek_cli.spec import Field, fields_of

MODEL = "{name} is a path, stored name, alias, hf:ORG/NAME, ms:ORG/NAME or pkg:PACKAGE."
EXAMPLES = [
    "deepseek demo",
    "deepseek pull hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "deepseek quantize DeepSeek-R1-Distill-Qwen-1.5B --int4",
]
CODES = "Exit codes: 0 done, 1 the answer is no, 2 usage, 3 model, 4 resources, 5 network, 70 a bug of ours, 130 interrupted."
COLUMN = 30  # the widest name that still has its explanation beside it


def overview() -> str:
    """`deepseek --help`."""
    first = max(cells(t(panel)) for panel in PANELS) + 2
    commands = []
    for panel in PANELS:
        members = [(name, t(command.help)) for name, command in COMMANDS.items() if command.panel == panel]
        for i, (name, help_) in enumerate(members):
            label = t(panel) if i == 0 else ""
            commands.append(f"{label}{' ' * (first - cells(label))}{name:<12}{help_}")
    common = fields_of(Common).values()
    return "\n".join(
        [
            f"{t('Usage:')} deepseek {t('COMMAND [MODEL] [OPTIONS]')}",
            "",
            t("Take a language model from a hub to the hardware it must run on, and prove at every step that nothing was lost."),
            "",
            *commands,
            "",
            t("Every command takes:"),
            *_rows([f for f in common if f.name in EVERYWHERE]),
            t("Where it applies:"),
            *_rows([f for f in common if f.name not in EVERYWHERE]),
            "",
            *wrap(t(CODES), _width()),
            "",
            *_examples(EXAMPLES),
        ]
    )


def usage(name: str, module: ModuleType) -> str:
    words = ["deepseek", name, *(argument.metavar for argument in arguments_of(module)), t("[OPTIONS]")]
    return f"{t('Usage:')} {' '.join(words)}"


def command_help(name: str, module: ModuleType, *, full: bool = False) -> str:
    """`deepseek COMMAND --help`; `full` explains the shared options and the rare ones too."""
    own, shared = own_fields(module).values(), list(common_fields(module).values())
    lines = [usage(name, module), "", t(COMMANDS[name].help)]
    if any(argument.name in ("model", "models") for argument in arguments_of(module)):
        lines += wrap(t(MODEL).format(name="MODEL"), _width())
    if flags := [field for field in own if not field.option.rare]:
        lines += ["", t("Options:"), *_rows(flags)]
    if full:
        lines += ["", t("Common options:"), *_rows(shared)]
        lines += _settings(name, [field for field in own if field.option.rare])
    else:
        labels = [_label(field, "/").replace(" ", NO_BREAK) for field in shared]
        lines += ["", *wrap(" ".join([t("Also:"), *labels, t("(explained with -v)")]), _width())]
    return "\n".join([*lines, "", *_examples(module.EXAMPLES)])


def _settings(name: str, rare: list[Field]) -> list[str]:
    if not rare:
        return []
    heading = t("Without a flag (--set NAME=VALUE, or [{command}] in deepseek.toml):").format(command=name)
    return ["", heading, *(line for field in rare for line in _row(f"{field.name}={field.metavar}", field))]


def _rows(fields: Iterable[Field]) -> list[str]:
    return [line for field in fields for line in _row(_label(field, ", "), field)]


def _row(label: str, field: Field) -> list[str]:
    default = "" if field.default in (None, False, "", 0, ()) else t(" (default {value})").format(value=field.default)
    texts = wrap(t(field.option.help) + default, _width() - COLUMN - 4)
    head = f"  {label:<{COLUMN}}  "
    lines = [head + texts[0], *(" " * (COLUMN + 4) + text for text in texts[1:])]
    return lines if len(label) <= COLUMN else [head.rstrip(), *(" " * (COLUMN + 4) + text for text in texts)]


def _label(field: Field, separator: str) -> str:
    value = "" if field.kind is bool or field.name == "verbose" else f" {field.metavar}"
    return separator.join(field.flags) + value


def _examples(examples: Iterable[str]) -> list[str]:
    return [t("Examples:"), *(f"  {example}" for example in examples)]


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, 60), 100)
