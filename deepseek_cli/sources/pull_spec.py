"""What can be said to `deepseek pull`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.errors import UsageError
from deepseek_cli.spec import Size, option

LOCK_FILE = "deepseek.lock.json"  # of a project, beside its deepseek.toml


@dataclass(frozen=True, slots=True)
class PullSpec:
    revision: str | None = option(None, help="branch, tag or commit", metavar="NAME")
    source: str = option("hf", help="hf, modelscope, or the address of a hub like hf", metavar="hf|modelscope|URL")
    mirror: tuple[str, ...] = option((), help="where to go on when the source fails, in order", metavar="hf|modelscope|URL")
    include: tuple[str, ...] = option((), help="also these files of the repository", metavar="PATTERN")
    exclude: tuple[str, ...] = option((), help="but not these", metavar="PATTERN")
    lock: Path | None = option(None, help="write down in FILE what was fetched", metavar="FILE")
    locked: bool = option(False, help="fetch what the lock file says, and refuse anything else")
    allow_pickle: bool = option(False, help="convert weights that a repository has as pickles only")
    mtp: bool = option(False, help="also fetch shards that only draft further tokens (multi-token prediction)", rare=True)
    workers: int = option(8, help="ranges of files to fetch at once, at most")
    max_rate: Size | None = option(None, help="most bytes to fetch in a second, such as 5MB")

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError("--workers is at least 1.", hint="Leave it out for 8.")
        if self.max_rate is not None and self.max_rate < 1:
            raise UsageError("--max-rate is at least 1 byte a second.", hint="Leave it out for no limit.")
