"""What the command line promises, for every command at once."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from deepseek_cli import errors
from deepseek_cli.commands import COMMANDS, _app, load
from deepseek_cli.commands._call import EVERYWHERE, GENERAL, Call, Common
from deepseek_cli.output import Output
from deepseek_cli.settings import read_settings
from deepseek_cli.spec import fields_of
from tests.cli.processes import PRESENT, ROOT, start
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
CODES = {
    "answer-is-no": 1,
    "usage-error": 2,
    "model-not-found": 3,
    "model-unsupported": 3,
    "model-corrupt": 3,
    "disk-full": 4,
    "memory-short": 4,
    "missing-extra": 4,
    "network-error": 5,
    "deepseek-error": 70,
    "interrupted": 130,
}


@pytest.fixture(params=PRESENT)
def command(request: pytest.FixtureRequest) -> tuple[str, ModuleType]:
    return request.param, load(request.param)


# help


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]], ids=str)
def test_help_of_the_program_lists_every_command(cli: Cli, words: list[str]) -> None:
    done = cli(*words)
    assert (done.code, done.err) == (0, "")
    assert all(re.search(rf"\b{name}\b .*{re.escape(known.help)}", done.out) for name, known in COMMANDS.items())


def test_help_of_a_command_is_short_and_ends_with_examples(cli: Cli, command: tuple[str, ModuleType]) -> None:
    name, module = command
    done = cli(name, "--help")
    lines = done.out.rstrip("\n").split("\n")
    assert (done.code, done.err) == (0, "")
    assert len(lines) <= 40
    assert all(len(line) <= 80 for line in done.out.partition("Examples:")[0].split("\n"))
    assert lines[-len(module.EXAMPLES) - 1 :] == ["Examples:", *(f"  {example}" for example in module.EXAMPLES)]


def test_verbose_help_explains_every_option(cli: Cli, command: tuple[str, ModuleType]) -> None:
    name, module = command
    text = cli(name, "--help", "-v").out
    assert all(field.name in text or field.flags[-1] in text for field in _app.own_fields(module).values())
    assert all(field.option.help in re.sub(r"\s+", " ", text) for field in _app.common_fields(module).values())


def test_a_command_takes_the_common_options_and_at_most_twelve_of_its_own(command: tuple[str, ModuleType]) -> None:
    _, module = command
    own = _app.own_fields(module)
    assert set(EVERYWHERE) <= set(_app.common_fields(module))
    assert not set(own) & {*_app.common_fields(module), *GENERAL}
    assert len([field for field in own.values() if field.option.brief and not field.option.rare]) <= 12
    assert all(field.option.help for field in own.values())
    assert set(getattr(module, "COMMON", ())) <= set(fields_of(Common))


def test_the_examples_of_a_command_parse(command: tuple[str, ModuleType]) -> None:
    name, module = command
    lines = [
        part.strip() for example in module.EXAMPLES for part in re.split(r"[|>]|\$\(|\)\"", example) if f"deepseek {name}" in part
    ]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        given = _app.parse(name, module, words[words.index(name) + 1 :])
        _app._arguments(name, _app.arguments_of(module), list(given["arguments"] or []))


def test_options_stand_before_or_after_arguments(cli: Cli) -> None:
    assert cli("rm", "nothing", "--json").json == cli("rm", "--json", "nothing").json


# versions


def test_version(cli: Cli) -> None:
    from deepseek_cli import __version__

    assert cli("--version").out == f"deepseek {__version__}\n"
    assert cli("--version", "--json").json.keys() >= {"schema", "ok", "version", "python", "torch", "onnxruntime"}


# mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["qantize"], "Did you mean quantize?"),
        (["--json", "list"], "Options come after it"),
        (["doctor", "--forse"], "Did you mean --force?"),
        (["doctor", "extra"], "doctor takes no argument 'extra'."),
        (["doctor", "-o"], "-o needs a value."),
        (["doctor", "--force=1"], "--force takes no value."),
        (["rm"], "rm needs NAME."),
        (["completion", "basx"], "Did you mean bash?"),
        (["doctor", "--color", "alwys"], "Did you mean always?"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_named_with_what_to_do(cli: Cli, words: list[str], said: str) -> None:
    done = cli(*words)
    assert done.code == 2
    assert said in done.err
    assert done.err.startswith("error: ") and "Traceback" not in done.err


def test_a_mistake_with_json_is_one_document(cli: Cli, command: tuple[str, ModuleType]) -> None:
    name, _ = command
    done = cli(name, "--json", "-v", "--no-such-option")
    assert done.code == 2
    assert done.json["schema"] == f"deepseek.{name}/1"
    assert done.json["ok"] is False
    assert done.json["error"].keys() == {"code", "message", "hint", "exit_code"}
    assert (done.json["error"]["code"], done.json["error"]["exit_code"]) == ("usage-error", 2)
    assert done.json["warnings"] == []


@pytest.mark.parametrize("words", [["list"], ["doctor"], ["plugins"], ["config", "path"], ["completion", "bash"]], ids=" ".join)
def test_success_with_json_is_one_document(cli: Cli, words: list[str]) -> None:
    done = cli(*words, "--json")
    assert done.code == 0
    assert (done.json["schema"], done.json["ok"], done.json["warnings"]) == (f"deepseek.{words[0]}/1", True, [])


def test_quiet_prints_results_only(cli: Cli) -> None:
    assert cli("config", "path", "-q").out.endswith("config.toml\n")
    assert cli("list", "-q") == Outcome(0, "", "")


def test_without_a_model_both_ways_to_name_one_are_told(tmp_path: Path) -> None:
    def call() -> Call:
        return Call("show", {"model": None}, None, Common(), Output("show"), read_settings(tmp_path, os.environ))

    with pytest.raises(errors.UsageError, match=r"deepseek show MODEL, or write model = \"\.\.\.\" into \./deepseek\.toml"):
        _ = call().model
    (tmp_path / "deepseek.toml").write_text("model = 'hf:a/b'\n", encoding="utf-8")
    assert call().model == "hf:a/b"


# exit codes


@pytest.mark.parametrize(("code", "number"), CODES.items())
def test_every_error_has_its_documented_exit_code(code: str, number: int) -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.DeepseekError)]
    (kind,) = [k for k in kinds if k("x").code == code]
    assert kind.exit_code == number


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (errors.ModelNotFound("x"), 3),
        (KeyboardInterrupt(), 130),
        (MemoryError(), 4),
        (OSError(errno.ENOSPC, "No space left on device"), 4),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 4),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 4),
        (ModuleNotFoundError("No module named 'deepseek_cli.x'", name="deepseek_cli.x"), 70),
        (ZeroDivisionError("division by zero"), 70),
        (BrokenPipeError(errno.EPIPE, "a worker's pipe"), 70),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_whatever_a_command_raises_ends_in_a_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, number: int
) -> None:
    monkeypatch.setattr(load("list"), "run", raiser(error))
    done = cli("list", "--json")
    assert done.code == done.json["error"]["exit_code"] == number
    assert "Traceback" not in done.err


def raiser(error: BaseException) -> Callable[..., None]:
    def run(_: object) -> None:
        raise error

    return run


def test_a_bug_asks_for_a_report_and_debug_shows_where(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load("list"), "run", raiser(ZeroDivisionError("division by zero")))
    assert "report" in cli("list").err
    monkeypatch.setenv("DEEPSEEK_DEBUG", "1")
    assert "Traceback" in cli("list").err


def test_a_token_never_reaches_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load("list"), "run", raiser(ValueError("hf_abcdefghijklmnop was refused")))
    done = cli("list", "--json")
    assert "hf_abc" not in done.out + done.err


# processes: what only a real one shows


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    for unbuffered in ("", "1"):
        environ = {"PYTHONUNBUFFERED": unbuffered}
        done = start("--help", stdout=write, stderr=subprocess.PIPE, capture_output=False, cwd=tmp_path, env=environ)
        assert (done.returncode, done.stderr) == (0, "")
    os.close(write)


@pytest.mark.parametrize("encoding", ["gbk", "ascii"])
def test_a_console_that_is_not_utf8_gets_what_it_can_show(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / "模型 ✓"
    done = start("config", "path", env={"PYTHONIOENCODING": encoding, "XDG_CONFIG_HOME": str(folder)}, text=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_file_name_that_is_not_utf8_is_an_argument_like_any_other(tmp_path: Path) -> None:
    done = start(os.fsdecode(b"rm"), os.fsdecode(b"\xff\xfe"), "--json", text=False, cwd=tmp_path)
    assert done.returncode == 3


def test_no_home_is_a_sentence(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from deepseek_cli.main import main
def home():
    raise RuntimeError
Path.home = home
sys.exit(main(sys.argv[1:]))
"""
    done = start("list", code=code, env={"XDG_CONFIG_HOME": "", "DEEPSEEK_HOME": ""}, cwd=tmp_path)
    assert done.returncode == 2 and "Set DEEPSEEK_HOME" in done.stderr


def test_interrupt_ends_with_130(tmp_path: Path) -> None:
    code = """
import sys, time
from deepseek_cli import main
from deepseek_cli.commands import load
def wait(call):
    call.reporter.note("waiting")
    time.sleep(60)
load("list").run = wait
sys.exit(main.main(["list"]))
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert (process.wait(), said) == (130, "error: Interrupted.\n")
