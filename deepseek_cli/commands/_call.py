"""What a command gets: its arguments, its spec, the options that all commands share, and where to say things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepseek_cli.errors import UsageError
from deepseek_cli.output import Output
from deepseek_cli.settings import Settings
from deepseek_cli.spec import Size, option

EVERYWHERE = ("output", "force", "json", "quiet", "verbose", "offline", "color", "yes", "help")
# These may also stand at the top of a settings file, or in DEEPSEEK_<NAME>.
GENERAL = ("offline", "color", "yes", "strict", "threads", "context", "memory", "seed", "device", "engine")


@dataclass(frozen=True, slots=True)
class Common:
    """The options that commands share: those in EVERYWHERE, and those that a command lists in COMMON."""

    output: Path | None = option(None, flag="-o/--output", help="where the result goes, instead of the store")
    force: bool = option(False, help="replace what is there")
    json: bool = option(False, help="print one JSON document instead of text")
    quiet: bool = option(False, flag="-q/--quiet", help="print only the result's name or path")
    verbose: int = option(0, flag="-v/--verbose", help="say more; with --help, explain every option")
    offline: bool = option(False, help="never touch the network")
    color: Literal["auto", "always", "never"] = option("auto", help="colour, by default on terminals only")
    yes: bool = option(False, flag="-y/--yes", help="agree to what would be asked")
    help: bool = option(False, flag="-h/--help", help="explain the command")
    dry_run: bool = option(False, flag="-n/--dry-run", help="check everything, show the plan, and stop")
    strict: bool = option(False, help="exit with 1 when there were warnings")
    threads: int | None = option(None, help="processor threads to use")
    context: int | None = option(None, help="most tokens to hold", metavar="TOKENS")
    memory: Size | None = option(None, help="most memory this process may hold, such as 4GB")
    seed: int | None = option(None, help="seed of everything random")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", help="where PyTorch computes")
    engine: Literal["local", "ray"] = option("local", help="where to compute: in this process, or on a Ray cluster")
    address: str | None = option(None, help="of the Ray cluster, instead of the one that Ray finds", metavar="HOST:PORT")
    memory_profile: bool = option(False, help="write where this run's memory goes as one offline page, <name>-memory.html")
    optimize_memory: bool = option(False, help="choose how a bundle runs so that it stays within --memory, at the least cost")
    set: tuple[str, ...] = option((), help="set any option, also those without a flag", metavar="NAME=VALUE")

    def __post_init__(self) -> None:
        if self.address and self.engine != "ray":
            raise UsageError("--address is for --engine ray.", hint="Give both, or neither.")
        if self.optimize_memory and self.memory is None:
            raise UsageError("--optimize-memory needs to know how much there is.", hint="Add --memory, such as --memory 500MB.")


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The spec of a command without options of its own."""


@dataclass(frozen=True, slots=True)
class Call:
    command: str
    arguments: dict[str, Any]
    spec: Any
    common: Common
    reporter: Output
    settings: Settings

    @property
    def cap(self) -> int | None:
        """Of this process's memory. With --optimize-memory, --memory speaks of processes to come, where the work is theirs, and
        so it does of replicas."""
        elsewhere = self.common.optimize_memory and self.command in ("bench", "deploy")
        elsewhere |= self.common.engine == "ray" and self.command == "serve"
        return None if elsewhere else self.common.memory

    @property
    def model(self) -> str:
        """What MODEL says, or else the settings. Raises UsageError where neither names a model."""
        model = self.arguments.get("model") or self.settings.model
        if not model:
            raise UsageError(
                "No model is named.",
                hint='Name one: deepseek {command} MODEL, or write model = "..." into ./deepseek.toml.',
                command=self.command,
            )
        return model
