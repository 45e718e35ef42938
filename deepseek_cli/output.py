"""The one sink: results go to stdout, everything else to stderr, for people, as JSON or quietly."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from deepseek_cli.errors import AnswerIsNo, DeepseekError, UsageError
from deepseek_cli.i18n import cells, say, t
from deepseek_cli.progress import Progress

BOLD, DIM, RED, YELLOW = "1", "2", "1;31", "33"
SECRET = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


class ReaderGone(Exception):
    """Whoever read our output, such as `head`, has seen enough."""


@dataclass(frozen=True, slots=True, init=False)
class Line:
    """A sentence of a result, as people read it: an English template and its facts."""

    template: str
    facts: Mapping[str, Any]

    def __init__(self, template: str, **facts: Any) -> None:
        object.__setattr__(self, "template", template)
        object.__setattr__(self, "facts", facts)


@dataclass(frozen=True, slots=True)
class Table:
    """Headers are templates; cells are shown as `str` shows them. Columns of numbers are set to the right."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Result:
    """What a command found: `data` for --json, `lines` for people (text, Line or Table), `quiet` for -q.

    `exit_code` 1 says that the answer is no; `error` is why only a part was found. `next` is the command that usually follows.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[str | Line | Table] = ()
    quiet: str = ""
    exit_code: int = 0
    next: str = ""
    error: DeepseekError | None = None


class Output:
    """Speaks for one command, and is the engine's Reporter."""

    def __init__(self, command: str, *, as_json: bool = False) -> None:
        self.command, self.json = command, as_json
        self.quiet = self.strict = self.yes = False
        self.color = "auto"
        self.warnings: list[str] = []
        self.heard: Callable[[str, object], None] = lambda step, session: None  # whoever follows the command's steps
        self.bars = Progress(lambda line: self._aside(line, DIM), sys.stderr if sys.stderr.isatty() else None)

    # what the engine may say

    def note(self, message: str, **facts: object) -> None:
        self._aside(say(message, facts))

    def warn(self, message: str, **facts: object) -> None:
        text = say(message, facts)
        if text not in self.warnings:
            self.warnings.append(text)
            self._err(f"{self._styled(t('warning:'), YELLOW, sys.stderr)} {text}")

    def progress(self, step: str, done: int, total: int, unit: str = "") -> None:
        self.step(step)
        if not self.quiet:
            self.bars.update(step, done, total, unit)

    # what commands may do

    def step(self, name: str, session: object = None) -> None:
        """A step begins that is not worth a line; `session` is what the command holds from now on."""
        self.heard(name, session)

    def stream(self, text: str) -> None:
        """Part of a result that is shown while it grows; with --json the whole belongs into the document instead."""
        if not self.json:
            self.bars.close()
            _write(sys.stdout, text, flush=True)

    def stream_aside(self, text: str) -> None:
        """Part of what leads to a result, such as a model's thinking, while it grows."""
        if not (self.json or self.quiet):
            self.bars.close()
            _write(sys.stderr, self._styled(text, DIM, sys.stderr), flush=True)

    def confirm(self, question: str, **facts: object) -> None:
        """Return only if the user agrees: by --yes, or by answering on a terminal.

        Raises UsageError where nobody can be asked, AnswerIsNo when the answer is no.
        """
        if self.yes:
            return
        text = say(question, facts)
        if self.json or self.quiet or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError("{question} Nobody is there to answer.", hint="Agree with --yes.", question=text)
        _write(sys.stderr, f"{text} [y/N] ", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes", "是"):
            raise AnswerIsNo("Nothing was done.")

    # how a command ends

    def result(self, result: Result, file: Path | None = None) -> int:
        """Show it, or save what would be shown in `file`, and give the exit code."""
        if file:
            with contextlib.redirect_stdout(io.StringIO()) as text:
                code = self.result(result)
            file.write_text(text.getvalue(), encoding="utf-8")
            return code
        self.bars.close()
        unwanted = AnswerIsNo("There were {count} warnings, and --strict counts them as errors.", count=len(self.warnings))
        no = AnswerIsNo("The answer is no.") if result.exit_code else unwanted if self.strict and self.warnings else None
        error = result.error or no
        if self.json:
            self._document(result.data, error)
        elif self.quiet and result.quiet:
            self.text(result.quiet)
        elif not self.quiet:
            for line in result.lines:
                self._show(line)
        if error and error in (unwanted, result.error):
            self._err(f"{self._styled(t('error:'), RED, sys.stderr)} {say(error.message, error.facts)}")
        elif not error and result.next and sys.stderr.isatty() and not self.json:
            self._aside(f"{t('next:')} {result.next}", DIM)
        return error.exit_code if error else 0

    def error(self, error: DeepseekError) -> int:
        """Say what is wrong and what to do, and give the exit code."""
        self.bars.close()
        if self.json:
            self._document({}, error)
        hint = f"\n  {say(error.hint, error.facts)}" if error.hint else ""
        self._err(f"{self._styled(t('error:'), RED, sys.stderr)} {say(error.message, error.facts)}{hint}")
        return error.exit_code

    def text(self, text: str) -> None:
        _write(sys.stdout, f"{text}\n")

    # how things look

    def _show(self, line: str | Line | Table) -> None:
        if not isinstance(line, Table):
            self.text(line if isinstance(line, str) else say(line.template, dict(line.facts)))
        elif line.rows and sys.stdout.isatty() and self._colored(sys.stdout):
            _print_rich(line)
        elif line.rows:
            self.text("\n".join(_aligned(line)))

    def _document(self, data: Mapping[str, Any], error: DeepseekError | None) -> None:
        document = {"schema": f"deepseek.{self.command}/1", "ok": error is None, **data}
        if error:
            message, hint = (SECRET.sub("hf_...", say(text, error.facts)) for text in (error.message, error.hint))
            document["error"] = {"code": error.code, "message": message, "hint": hint, "exit_code": error.exit_code}
        document["warnings"] = self.warnings
        utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
        self.text(json.dumps(_plain(document), ensure_ascii=not utf8, indent=2, allow_nan=False))

    def _aside(self, text: str, style: str = "") -> None:
        if not self.quiet:
            self._err(self._styled(text, style, sys.stderr))

    def _err(self, text: str) -> None:
        _write(sys.stderr, f"{SECRET.sub('hf_...', text)}\n")

    def _styled(self, text: str, style: str, stream: TextIO) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if style and self._colored(stream) else text

    def _colored(self, stream: TextIO) -> bool:
        if self.color != "auto":
            return self.color == "always"
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return not plain and (stream.isatty() or bool(os.environ.get("FORCE_COLOR")))


def _write(stream: TextIO, text: str, flush: bool = False) -> None:
    try:
        stream.write(text)
        if flush:
            stream.flush()
    except BrokenPipeError:  # of this stream; the engine's own pipes are another matter
        raise ReaderGone from None


def _plain(value: Any) -> Any:
    """What JSON can hold: paths become text; infinities and NaN, which JSON lacks, become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _texts(table: Table) -> list[list[str]]:
    return [["-" if cell is None else str(cell) for cell in row] for row in table.rows]


def _numeric(table: Table, column: int) -> bool:
    kinds = {type(row[column]) for row in table.rows} - {type(None)}
    return kinds <= {int, float}


def _aligned(table: Table) -> list[str]:
    """Columns two spaces apart, never cut: what a pipe or a log file gets."""
    rows = [[t(header) for header in table.headers], *_texts(table)]
    widths = [max(cells(row[i]) for row in rows) for i in range(len(table.headers))]
    right = [_numeric(table, i) for i in range(len(widths))]
    padded = [[_pad(cell, width, r) for cell, width, r in zip(row, widths, right, strict=True)] for row in rows]
    return ["  ".join(row).rstrip() for row in padded]


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - cells(text))
    return space + text if right else text + space


def _print_rich(table: Table) -> None:
    from rich import table as rich_table
    from rich.console import Console
    from rich.text import Text

    shown = rich_table.Table(box=None, pad_edge=False, header_style="bold")
    for i, header in enumerate(table.headers):
        shown.add_column(t(header), overflow="fold", justify="right" if _numeric(table, i) else "left")
    for row in _texts(table):
        shown.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout, highlight=False).print(shown)
