"""What can be said to `deepseek pull`."""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_cli.errors import UsageError
from deepseek_cli.spec import Size, option


@dataclass(frozen=True, slots=True)
class PullSpec:
    revision: str | None = option(None, help="branch, tag or commit", metavar="NAME")
    source: str = option("hf", help="hf, modelscope, or the address of a hub like hf", metavar="hf|modelscope|URL")
    mirror: tuple[str, ...] = option((), help="where to go on when the source fails, in order", metavar="hf|modelscope|URL")
    include: tuple[str, ...] = option((), help="also these files of the repository", metavar="PATTERN")
    exclude: tuple[str, ...] = option((), help="but not these", metavar="PATTERN")
    workers: int = option(8, help="ranges of files to fetch at once")
    max_rate: Size | None = option(None, help="most bytes to fetch in a second, such as 5MB")

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError("--workers is at least 1.", hint="Leave it out for 8.")
        if self.max_rate is not None and self.max_rate < 1:
            raise UsageError("--max-rate is at least 1 byte a second.", hint="Leave it out for no limit.")
