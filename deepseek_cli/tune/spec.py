"""What can be said to `deepseek tune`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepseek_cli.errors import UsageError
from deepseek_cli.settings import require_known
from deepseek_cli.spec import option

OBJECTIVES = ("size", "kl", "speed")  # all to be made small; speed is counted as the bytes that a decoded token reads
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class TuneSpec:
    objective: str = option("size,kl", help="what to trade off: kl and any of size, speed", metavar="NAMES")
    space: str = option("builtin", help="a TOML file that says what may be tried", metavar="FILE")
    trials: int = option(50, help="trials in all, those of earlier runs counted")
    time: str | None = option(None, help="start no trial that would end later than this, such as 2h", metavar="DURATION")
    workers: int = option(1, help="processes that share the trials")
    study: Path | None = option(None, help="where trials are kept and gone on with; by default in the store", metavar="FILE")
    sampler: Literal["auto", "tpe", "cmaes", "nsga2"] = option("auto", help="who proposes; auto: whoever gains more")
    windows: int = option(8, help="windows of 256 tokens, of each text, to measure on")
    html: Path | None = option(None, help="write trials and front as one offline page", metavar="FILE")
    apply: int | None = option(None, help="make the model of this trial, and try nothing", metavar="TRIAL")
    text: str | None = option(None, help="a text file to measure on, instead of the built-in ones", rare=True, metavar="FILE")
    prune: bool = option(True, help="end a trial whose first windows are worse than a known trial's", rare=True)

    def __post_init__(self) -> None:
        for flag, count in (("--trials", self.trials), ("--workers", self.workers), ("--windows", self.windows)):
            if count < 1:
                raise UsageError("{flag} {count} is less than one.", hint="Give at least 1.", flag=flag, count=count)
        for name in self.objectives:
            require_known(name, OBJECTIVES, "--objective")
        if "kl" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UsageError(
                "--objective {names} does not name kl and others once each.",
                hint="For example: --objective size,kl",
                names=self.objective,
            )
        _ = self.seconds

    @property
    def objectives(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.objective.split(","))

    @property
    def seconds(self) -> float | None:
        """--time; None without a limit."""
        if self.time is None:
            return None
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)", self.time.strip())
        if not match or not float(match[1]):
            raise UsageError("--time {value} is not a duration.", hint="Write it like 45s, 30m or 2h.", value=self.time)
        return float(match[1]) * SECONDS[match[2]]
