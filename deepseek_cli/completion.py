"""Completion scripts, written once from the commands' specs: static, but for what the store holds.

    python -m deepseek_cli.completion completions/        # writes the committed copies again; a test compares them

What a script offers after a word is a `Slot`: fixed words, files, or names of models (with files).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.commands import COMMANDS, load
from deepseek_cli.commands._app import Argument, arguments_of, flags_of
from deepseek_cli.sources.catalogue import entries
from deepseek_cli.spec import Field

FILES = {"bash": "deepseek.bash", "zsh": "_deepseek", "fish": "deepseek.fish", "powershell": "deepseek.ps1"}
MODELS, NAMES, PATHS = "models", "names", "files"  # a model, what the store holds, a file
HEADER = "# Completion for deepseek. Written by `deepseek completion {shell}`: changes made here are lost."

BASH = r"""
_deepseek_words() { COMPREPLY=($(compgen -W "$1" -- "$word")); }
_deepseek_files() {
    local IFS=$'\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$word"))
}
_deepseek_names() { # and the words of $1; bash ends words at the @ of our names
    local IFS=$'\n' whole="${COMP_LINE:0:COMP_POINT}"
    whole="${whole##* }"
    COMPREPLY=($(compgen -W "$(deepseek list -q 2>/dev/null)"$'\n'"${1// /$'\n'}" -f -- "$whole"))
    COMPREPLY=("${COMPREPLY[@]#"${whole%"$word"}"}")
}
_deepseek_models() { _deepseek_names '@ALIASES@'; }
_deepseek() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        _deepseek_words '@COMMANDS@'
        return
    fi
    case "$command,$before" in
@VALUES@
    esac
    case "$command,$word" in
@FLAGS@
@ARGUMENTS@
    esac
}
complete -F _deepseek deepseek
"""

ZSH = r"""
_deepseek_names() {
    local -a names=(${(f)"$(deepseek list -q 2>/dev/null)"} $@)
    compadd -a names
    _files
}
_deepseek_models() { _deepseek_names @ALIASES@ }
_deepseek() {
    local command=$words[2]
    local -a commands=(
@COMMANDS@
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    shift words
    (( CURRENT-- ))
    case $command in
@CASES@
    esac
}
if [ "$funcstack[1]" = _deepseek ]; then _deepseek "$@"; else compdef _deepseek deepseek; fi
"""

POWERSHELL = r"""
Register-ArgumentCompleter -Native -CommandName deepseek -ScriptBlock {
    param($word, $tree, $cursor)
    $flags = @{
@FLAGS@
    }
    $values = @{
@VALUES@
    }
    $arguments = @{
@ARGUMENTS@
    }
    $words = @($tree.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor } | ForEach-Object { "$_" })
    $offer = if ($words.Count -le 1) { '@COMMANDS@' }
        elseif ($values.ContainsKey("$($words[1]) $($words[-1])")) { $values["$($words[1]) $($words[-1])"] }
        elseif ($word -like '-*') { $flags[$words[1]] }
        else { $arguments[$words[1]] }
    $names = if ($offer -eq 'models') { @(deepseek list -q 2>$null) + ('@ALIASES@' -split ' ') }
        elseif ($offer -eq 'names') { deepseek list -q 2>$null }
        elseif ($offer -ne 'files') { "$offer" -split ' ' }
    # Where nothing is offered, PowerShell completes file names.
    $names | Where-Object { $_ -and $_ -like "$word*" } |
        ForEach-Object { [System.Management.Automation.CompletionResult]::new($_) }
}
"""


@dataclass(frozen=True, slots=True)
class Flag:
    names: tuple[str, ...]
    help: str
    takes: str | None  # None for a switch; MODELS, NAMES, PATHS, words with spaces between, or "" for anything else
    many: bool

    @property
    def long(self) -> str:
        return self.names[-1].removeprefix("--")

    @property
    def short(self) -> str:
        return self.names[0].removeprefix("-") if len(self.names) > 1 else ""


@dataclass(frozen=True, slots=True)
class CommandLine:
    name: str
    help: str
    takes: str  # its first argument, as `Flag.takes`
    flags: tuple[Flag, ...]

    @property
    def words(self) -> str:
        return " ".join(name for flag in self.flags for name in flag.names)


def script(shell: str) -> str:
    """The script for one of SHELLS: in English whatever the user's language, so that everybody gets the same bytes."""
    return WRITERS[shell](command_lines())


def command_lines() -> list[CommandLine]:
    lines = []
    for name, command in COMMANDS.items():
        module = load(name)
        flags = tuple(Flag(f.flags, f.option.help, _taken_by_flag(f), f.many or f.name == "verbose") for f in flags_of(module))
        lines.append(CommandLine(name, command.help, _taken_by_argument(arguments_of(module)), flags))
    return lines


def _taken_by_flag(field: Field) -> str | None:
    if field.kind is bool or field.name == "verbose":
        return None
    if field.choices:
        return " ".join(map(str, field.choices))
    return PATHS if field.kind is Path or field.metavar in ("FILE", "PATH", "DIR") else MODELS if field.metavar == "MODEL" else ""


def _taken_by_argument(arguments: list[Argument]) -> str:
    if not arguments:
        return ""
    first = arguments[0]
    kinds = {"model": MODELS, "models": MODELS, "name": NAMES, "names": NAMES}
    return " ".join(first.choices) or kinds.get(first.name, "")


def aliases() -> str:
    return " ".join(entry.alias for entry in entries())


def _fill(frame: str, shell: str, **parts: str) -> str:
    for name, text in {**parts, "ALIASES": aliases()}.items():
        frame = frame.replace(f"@{name}@", text)
    return HEADER.format(shell=shell) + frame


def _bash(lines: list[CommandLine]) -> str:
    places: dict[str, list[str]] = {}
    for line in lines:
        for flag in line.flags:
            if flag.takes is not None:
                places.setdefault(_bash_reply(flag.takes), []).extend(f"{line.name},{name}" for name in flag.names)
    return _fill(
        BASH,
        "bash",
        COMMANDS=f"{' '.join(line.name for line in lines)} --help --version",
        VALUES="\n".join(f"        {'|'.join(where)}) {reply}; return ;;" for reply, where in places.items()),
        FLAGS="\n".join(f"        {line.name},-*) _deepseek_words '{line.words}' ;;" for line in lines),
        ARGUMENTS="\n".join(f"        {line.name},*) {_bash_reply(line.takes)} ;;" for line in lines if line.takes),
    )


def _bash_reply(takes: str) -> str:
    return {MODELS: "_deepseek_models", NAMES: "_deepseek_names", PATHS: "_deepseek_files", "": ":"}.get(
        takes, f"_deepseek_words '{takes}'"
    )


def _zsh(lines: list[CommandLine]) -> str:
    commands = [f"        {_quoted(f'{line.name}:{line.help}')}" for line in lines]
    cases = []
    for line in lines:
        slots = [_zsh_flag(flag) for flag in line.flags]
        if line.takes:
            slots.append(f"'*:{line.name}:{_zsh_action(line.takes)}'")
        arguments = " \\\n            ".join(slots)
        cases.append(f"        {line.name}) _arguments -s \\\n            {arguments} ;;")
    return "#compdef deepseek\n" + _fill(ZSH, "zsh", COMMANDS="\n".join(commands), CASES="\n".join(cases))


def _zsh_flag(flag: Flag) -> str:
    names = flag.names[0] if len(flag.names) == 1 else "{" + ",".join(flag.names) + "}"
    repeat = "'*'" if flag.many else f"'({' '.join(flag.names)})'" if len(flag.names) > 1 else ""
    help_ = flag.help.replace("[", "\\[").replace("]", "\\]")
    value = "" if flag.takes is None else f":{flag.long}:{_zsh_action(flag.takes)}"
    return f"{repeat}{names}{_quoted(f'[{help_}]{value}')}"


def _zsh_action(takes: str) -> str:
    return {MODELS: "_deepseek_models", NAMES: "_deepseek_names", PATHS: "_files", "": " "}.get(takes, f"({takes})")


def _fish(lines: list[CommandLine]) -> str:
    out = [
        HEADER.format(shell="fish"),
        f"function __deepseek_aliases; string split ' ' '{aliases()}'; end",
        "complete -c deepseek -f",
    ]
    out += [f"complete -c deepseek -n __fish_use_subcommand -a {line.name} -d {_quoted(line.help)}" for line in lines]
    for line in lines:
        start = f"complete -c deepseek -n '__fish_seen_subcommand_from {line.name}'"
        if line.takes:
            out.append(start + _fish_value(line.takes))
        for flag in line.flags:
            value = "" if flag.takes is None else " -r" + _fish_value(flag.takes)
            short = f" -s {flag.short}" if flag.short else ""
            out.append(f"{start}{short} -l {flag.long}{value} -d {_quoted(flag.help)}")
    return "\n".join([*out, ""])


def _fish_value(takes: str) -> str:
    names = "deepseek list -q 2>/dev/null"
    models = f" -F -a '({names}; __deepseek_aliases)'"
    return {MODELS: models, NAMES: f" -F -a '({names})'", PATHS: " -F", "": ""}.get(takes, f" -f -a '{takes}'")


def _powershell(lines: list[CommandLine]) -> str:
    values = [
        (f"{line.name} {name}", flag.takes)
        for line in lines
        for flag in line.flags
        if flag.takes is not None
        for name in flag.names
    ]
    return _fill(
        POWERSHELL,
        "powershell",
        COMMANDS=f"{' '.join(line.name for line in lines)} --help --version",
        FLAGS="\n".join(f"        '{line.name}' = '{line.words}'" for line in lines),
        VALUES="\n".join(f"        '{place}' = '{takes}'" for place, takes in values),
        ARGUMENTS="\n".join(f"        '{line.name}' = '{line.takes}'" for line in lines if line.takes),
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


WRITERS = {"bash": _bash, "zsh": _zsh, "fish": _fish, "powershell": _powershell}
SHELLS = tuple(WRITERS)


def write_all(folder: Path) -> None:
    for shell, name in FILES.items():
        (folder / name).write_text(script(shell), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
