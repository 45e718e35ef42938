"""From a command line to an exit code. This is the only place that catches."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from deepseek_cli import __version__, commands
from deepseek_cli.errors import DeepseekError, DiskFull, Interrupted, MemoryShort, MissingExtra, ResourceError, UsageError
from deepseek_cli.output import Output, ReaderGone, Result

PACKAGES = ("torch", "onnxruntime")  # what a bug report is asked about first
COLLECT_EVERY = 50_000  # new objects, where Python's own 700 has it search torch for garbage all through its import


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; the table of codes is in `errors`."""
    words = list(sys.argv[1:] if argv is None else argv)
    spare_collections()
    make_streams_safe()
    options = words[: words.index("--")] if "--" in words else words
    output = Output(words[0] if words and words[0] in commands.COMMANDS else "error", as_json="--json" in options)
    code = 0
    try:
        try:
            code = dispatch(words, output)
        except ReaderGone:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("DEEPSEEK_DEBUG", "0") not in ("", "0"):
                traceback.print_exc()
            code = output.error(explain(error))
        sys.stdout.flush()
    except (ReaderGone, BrokenPipeError):
        silence()
    return code


def dispatch(words: list[str], output: Output) -> int:
    """Find the command, import it and nothing else, read its options, run it, show its result."""
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        from deepseek_cli.commands import _help

        output.text(_help.overview())
        return 0
    if name in ("-V", "--version"):
        output.command = "version"
        return output.result(version())
    if name.startswith("-"):
        raise UsageError(
            "There is no option {option} before a command.", hint="Options come after it: deepseek COMMAND {option}", option=name
        )

    module = commands.load(name)
    from deepseek_cli.commands import _app, _call, _help
    from deepseek_cli.settings import read_settings

    given = _app.parse(name, module, words[1:])
    if given["help"]:
        output.text(_help.command_help(name, module, full=bool(given["verbose"])))
        return 0
    output.quiet = bool(given["quiet"])
    settings = read_settings(Path.cwd(), os.environ, commands.COMMANDS, _call.GENERAL)
    call = _app.make_call(name, module, given, settings, output)
    output.color, output.strict, output.yes = call.common.color, call.common.strict, call.common.yes
    file = call.common.output if commands.COMMANDS[name].prints else None
    if file and file.exists() and not call.common.force:
        raise UsageError("{path} exists.", hint="Use --force to replace it, or another -o.", path=file)
    with memory_cap(call.cap):
        result = _app.run(module, call)
    return output.result(result, file)


def memory_cap(most: int | None) -> contextlib.AbstractContextManager[None]:
    """What --memory asks for; its module is only loaded where it is asked."""
    if most is None:
        return contextlib.nullcontext()
    from deepseek_cli.memory import capped

    return capped(most)


def version() -> Result:
    import platform
    from importlib import metadata

    versions = {"version": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = ""
    return Result(versions, [f"deepseek {__version__}"], __version__)


def explain(error: BaseException) -> DeepseekError:
    """What escaped, as one of our errors; what we did not foresee is a bug, with exit code 70."""
    match error:
        case DeepseekError():
            return error
        case KeyboardInterrupt():
            return Interrupted("Interrupted.")
        case MemoryError():
            return MemoryShort("There is not enough memory.", hint="Close other programs, or choose a smaller model.")
        case OSError(errno=errno.ENOSPC):
            return DiskFull("The disk is full.", hint="Free some space, or use -o on another disk.")
        case PermissionError() | OSError(errno=errno.EROFS):
            return ResourceError(
                "{file} cannot be used: {reason}.", hint="Check its permissions.", file=error.filename, reason=error.strerror
            )
        case ModuleNotFoundError() if error.name and not error.name.startswith("deepseek_cli"):
            return MissingExtra(
                "The package {package} is not installed.", hint="Install it: pip install {package}", package=error.name
            )
    return DeepseekError(
        "This is a bug in deepseek: {kind}: {reason}",
        hint="Please report it, with the output of `deepseek doctor`. DEEPSEEK_DEBUG=1 shows where it happened.",
        kind=type(error).__name__,
        reason=error,
    )


def spare_collections() -> None:
    """Large imports stay to the end. Searching them for garbage on the way, and once more at exit, is a third of their time."""
    gc.set_threshold(COLLECT_EVERY)
    atexit.register(gc.freeze)


def make_streams_safe() -> None:
    """A character that the console cannot show becomes `?`; a file name that is not UTF-8 passes as its bytes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() in ("utf-8", "utf8") else "replace")


def silence() -> None:
    """Let nothing more be written, so that the interpreter's own flush at exit stays quiet too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
