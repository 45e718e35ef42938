"""The commands. Each module says ARGUMENTS, SPEC, EXAMPLES and `run(call) -> Result`; only the one that is asked for is imported.

ARGUMENTS are written "model" (needed), "model?" (may be left out), "models*" (any number), "shell=bash|zsh" (one of these).
COMMON, if it is there, names the fields of `Common` that the command takes besides those that every command takes.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from types import ModuleType

from deepseek_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Command:
    module: str
    panel: str  # its group in `deepseek --help`
    help: str
    prints: bool = False  # its result is text, which -o saves in a file


COMMANDS = {
    "pull": Command("deepseek_cli.commands.pull", "Get", "Fetch a model, or take in one that is on this machine."),
    "search": Command(
        "deepseek_cli.commands.search", "Get", "Find a model in the catalogue, also by what fits a device.", prints=True
    ),
    "demo": Command("deepseek_cli.commands.demo", "Get", "Walk the whole way with a small real model, in ./demo."),
    "quantize": Command("deepseek_cli.commands.quantize", "Transform", "Write the weights with 4 or 8 bits."),
    "compress": Command("deepseek_cli.commands.compress", "Transform", "Make a model fit a size, at the least loss."),
    "tune": Command("deepseek_cli.commands.tune", "Transform", "Search for the recipes that lose least at each size."),
    "deploy": Command("deepseek_cli.commands.deploy", "Ship", "Build what the target hardware runs, and verify it."),
    "run": Command("deepseek_cli.commands.run", "Ship", "Answer a prompt, or chat."),
    "serve": Command("deepseek_cli.commands.serve", "Ship", "Serve a bundle through an OpenAI-compatible API."),
    "bench": Command("deepseek_cli.commands.bench", "Measure", "Measure speed and memory, and compare."),
    "profile": Command("deepseek_cli.commands.profile", "Measure", "Show where memory and time go."),
    "eval": Command("deepseek_cli.commands.eval", "Measure", "Measure what was lost against another model.", prints=True),
    "show": Command("deepseek_cli.commands.show", "Measure", "Show a model's config, lineage and report card.", prints=True),
    "verify": Command("deepseek_cli.commands.verify", "Measure", "Check a model's files against its manifest.", prints=True),
    "list": Command("deepseek_cli.commands.list", "Maintain", "List what the store holds.", prints=True),
    "rm": Command("deepseek_cli.commands.rm", "Maintain", "Delete something from the store.", prints=True),
    "doctor": Command(
        "deepseek_cli.commands.doctor", "Maintain", "Check this machine, for use and for bug reports.", prints=True
    ),
    "config": Command(
        "deepseek_cli.commands.config", "Maintain", "Show the settings, and where each one comes from.", prints=True
    ),
    "plugins": Command("deepseek_cli.commands.plugins", "Maintain", "List and check installed plug-ins.", prints=True),
    "completion": Command("deepseek_cli.commands.completion", "Maintain", "Print a shell's completion script.", prints=True),
}


def load(name: str) -> ModuleType:
    """The module of a command. Raises UsageError for an unknown name, with the closest known one."""
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = "Did you mean {close}?" if close else "See: deepseek --help"
        raise UsageError("There is no command {name!r}.", hint=hint, name=name, close="".join(close))
    return importlib.import_module(COMMANDS[name].module)
