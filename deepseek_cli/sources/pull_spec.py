"""What can be said to `deepseek pull`."""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_cli.spec import option


@dataclass(frozen=True, slots=True)
class PullSpec:
    revision: str | None = option(None, help="branch, tag or commit", metavar="NAME")
    source: str = option("hf", help="hf, or the address of a hub that speaks its protocol", metavar="hf|URL")
    include: tuple[str, ...] = option((), help="also these files of the repository", metavar="PATTERN")
    exclude: tuple[str, ...] = option((), help="but not these", metavar="PATTERN")
    workers: int = option(4, help="files at once")
