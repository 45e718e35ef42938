from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli import progress
from deepseek_cli.errors import AnswerIsNo, ModelCorrupt, UsageError
from deepseek_cli.i18n import cells, wrap
from deepseek_cli.output import Line, Output, Result, Table


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Terminal, Terminal]]:
    def connect() -> tuple[Terminal, Terminal]:
        out, err = Terminal(), Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setenv("TERM", "xterm-256color")
        return out, err

    return connect


RESULT = Result(
    {"size": 3, "path": Path("a/b"), "bad": math.nan, "pair": (1, 2)},
    ["plain", Line("{n} tensors", n=3), Table(("name", "MB"), [("模型", 1), ("b", None), ("c", 120)])],
    quiet="a/b",
    next="deepseek run a/b",
)
TEXT = "plain\n3 tensors\nname   MB\n模型    1\nb       -\nc     120\n"


def test_people_get_lines_and_aligned_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert Output("show").result(RESULT) == 0
    assert capsys.readouterr() == (TEXT, "")


def test_a_table_in_a_pipe_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    Output("show").result(Result(lines=[Table(("a", "b"), [("x" * 300, "y" * 300)])]))
    assert "x" * 300 + "  " + "y" * 300 in capsys.readouterr().out


def test_json_is_one_document_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("show", as_json=True)
    output.note("working")
    output.warn("{tensor} stays dense", tensor="lm_head")
    output.warn("{tensor} stays dense", tensor="lm_head")
    output.stream("text")
    assert output.result(RESULT) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "schema": "deepseek.show/1",
        "ok": True,
        "size": 3,
        "path": "a/b",
        "bad": None,
        "pair": [1, 2],
        "warnings": ["lm_head stays dense"],
    }
    assert err == "working\nwarning: lm_head stays dense\n"


def test_json_holds_dataclasses_as_objects(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Point:
        x: float

    Output("show", as_json=True).result(Result({"points": [Point(1.5)]}))
    assert json.loads(capsys.readouterr().out)["points"] == [{"x": 1.5}]


def test_quiet_prints_the_one_thing_and_only_warnings_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("show")
    output.quiet = True
    output.note("working")
    output.progress("quantize", 1, 2)
    output.progress("quantize", 2, 2)
    output.warn("careful")
    output.result(RESULT)
    assert capsys.readouterr() == ("a/b\n", "warning: careful\n")


def test_an_answer_of_no_is_exit_code_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert Output("verify", as_json=True).result(Result({"level": "L0"}, exit_code=1)) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["level"], document["error"]["code"]) == (False, "L0", "answer-is-no")


def test_strict_turns_warnings_into_exit_code_one(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("quantize")
    output.strict = True
    assert output.result(RESULT) == 0
    output.warn("careful")
    assert output.result(RESULT) == 1
    out, err = capsys.readouterr()
    assert out == TEXT * 2
    assert "There were 1 warnings" in err


def test_an_error_says_what_is_wrong_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    error = ModelCorrupt("{file}: tensor {tensor} is cut.", hint="Pull it again.", file="{odd} name", tensor="w")
    assert Output("show").error(error) == 3
    assert capsys.readouterr() == ("", "error: {odd} name: tensor w is cut.\n  Pull it again.\n")


def test_an_error_with_json_is_the_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert Output("show", as_json=True).error(ModelCorrupt("{file} is cut.", file="f")) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == {"code": "model-corrupt", "message": "f is cut.", "hint": "", "exit_code": 3}
    assert err == "error: f is cut.\n"


def test_the_result_can_go_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Output("list").result(RESULT, tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == TEXT
    assert capsys.readouterr().out == ""


def test_o_saves_what_a_command_prints_and_replaces_only_by_force(cli: Any) -> None:
    assert cli("config", "path", "-o", "x.txt").out == ""
    assert cli("config", "path").out == Path("x.txt").read_text(encoding="utf-8")
    assert cli("config", "path", "-o", "x.txt").code == 2
    assert cli("config", "path", "-o", "x.txt", "--force", "--json").code == 0
    assert json.loads(Path("x.txt").read_text(encoding="utf-8"))["ok"] is True


# on a terminal


def test_a_terminal_gets_colour_and_the_next_command(terminal: Callable[[], tuple[Terminal, Terminal]]) -> None:
    out, err = terminal()
    Output("show").result(RESULT)
    assert "\x1b[1m" in out.getvalue() and "模型" in out.getvalue()
    assert err.getvalue() == "\x1b[2mnext: deepseek run a/b\x1b[0m\n"


@pytest.mark.parametrize(
    ("variables", "color", "coloured"),
    [
        ({}, "auto", True),
        ({"NO_COLOR": "1"}, "auto", False),
        ({"TERM": "dumb"}, "auto", False),
        ({"NO_COLOR": "1"}, "always", True),
        ({}, "never", False),
    ],
)
def test_colour_is_decided_once(
    terminal: Callable[[], tuple[Terminal, Terminal]],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    color: str,
    coloured: bool,
) -> None:
    out, err = terminal()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    output = Output("show")
    output.color = color
    output.warn("careful")
    output.result(RESULT)
    assert ("\x1b[" in out.getvalue(), "\x1b[" in err.getvalue()) == (coloured, coloured)


def test_force_color_reaches_a_pipe_but_rich_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = Output("show")
    output.warn("careful")
    output.result(RESULT)
    assert capsys.readouterr() == (TEXT, "\x1b[33mwarning:\x1b[0m careful\n")


def test_a_terminal_gets_bars_that_are_gone_at_the_end(terminal: Callable[[], tuple[Terminal, Terminal]]) -> None:
    out, err = terminal()
    output = Output("quantize")
    output.progress("read", 0, 10, "B")
    output.progress("quantize", 1, 3, "tensors")
    output.progress("quantize", 3, 3, "tensors")
    output.progress("read", 10, 10, "B")
    assert output.bars.bars is None
    assert "read: 10 B in " in err.getvalue() and "quantize: 3 tensors in " in err.getvalue()
    assert out.getvalue() == ""


def test_consent_is_asked_on_a_terminal_only(
    terminal: Callable[[], tuple[Terminal, Terminal]], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output("rm")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError, match="--yes"):
        output.confirm("Delete {name}?", name="m")
    _, err = terminal()
    for answer, agreed in (("y\n", True), ("n\n", False), ("", False)):
        stdin = Terminal(answer)
        monkeypatch.setattr(sys, "stdin", stdin)
        if agreed:
            output.confirm("Delete {name}?", name="m")
        else:
            with pytest.raises(AnswerIsNo):
                output.confirm("Delete {name}?", name="m")
    assert err.getvalue() == "Delete m? [y/N] " * 3
    output.yes = True
    output.confirm("Delete {name}?", name="m")


# progress elsewhere


def test_a_pipe_gets_a_line_at_each_end_and_a_heartbeat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    output = Output("quantize")
    for done, seconds in ((0, 0), (1, 10), (2, 31), (3, 40), (4, 62)):
        now[0] = seconds
        output.progress("quantize", done, 4, "tensors")
    assert capsys.readouterr().err == (
        "quantize: 4 tensors to do\nquantize: 2 tensors of 4 tensors, 50 %\nquantize: 4 tensors in 62.0 s\n"
    )


def test_a_step_that_is_over_at_once_takes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Output("pull").progress("copy", 2_500_000, 2_500_000, "B")
    assert capsys.readouterr().err.splitlines() == ["copy: 2.5 MB in 0.0 s"]


# widths


def test_chinese_characters_count_as_two_columns() -> None:
    assert cells("模型 a") == 6
    assert wrap("把模型变小一些 and then on", 8) == ["把模型变", "小一些", "and then", "on"]
    assert wrap("", 10) == [""]
    assert wrap("a\u00a0b c", 4) == ["a b", "c"]
