"""What can be said to `deepseek compress`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepseek_cli.errors import UsageError
from deepseek_cli.spec import Size, option

GATE = "accuracy_gate"  # where a report holds the accuracy that `max_accuracy_loss` is held against


@dataclass(frozen=True, slots=True)
class CompressSpec:
    smaller: str | None = option(None, help="how much smaller, such as 85%", metavar="PERCENT")
    to_size: Size | None = option(None, help="the size to reach, such as 900MB")
    fit: str | None = option(
        None, help="the device it is to run on with an everyday context, or how much memory it has", metavar="DEVICE|SIZE"
    )
    relative_to: Literal["fp32", "bf16"] = option("fp32", help="what --smaller counts from")
    steps: str | None = option(
        None,
        help="what to leave out before rounding: mtp, vocabulary, experts, depth, width, heads, sparsity; "
        "recover=20m lets the rest learn; for example experts=50%,mtp",
        metavar="NAME[=SHARE],…",
    )
    time: str | None = option(None, help="how long it may take, such as 2h or 30min", metavar="DURATION")
    level: Literal["fast", "balanced", "best"] = option("balanced", help="how much work rounding is worth, as of quantize")
    algorithm: str | None = option(
        None, help="how to round, instead of the level's way, as of quantize", metavar="NAME", rare=True
    )
    zero_points: bool = option(True, help="whether a mixture may have them, which vLLM does not load", rare=True)
    max_kld: float | None = option(None, help="exit with 1 when the KL divergence is above this")
    max_accuracy_loss: float | None = option(None, help="exit with 1 unless next-token accuracy surely falls by less, relatively")
    calibration: str = option("builtin", help="a text file to calibrate on, instead of the built-in text", metavar="FILE")
    text: str | None = option(None, help="a text file to measure on, instead of the built-in ones", metavar="FILE")
    html: Path | None = option(None, help="write frontier, decisions, memory and answers as one offline page", metavar="FILE")

    def __post_init__(self) -> None:
        if sum(goal is not None for goal in (self.smaller, self.to_size, self.fit)) != 1:
            raise UsageError(
                "compress needs a goal: --smaller or --to-size or --fit, one of them.", hint="For example: --smaller 85%"
            )

        if self.text is not None and self.text == self.calibration:
            raise UsageError(
                "--text and --calibration are the same file: a model is not judged by what it was fitted to.",
                hint="Give another text to measure on.",
            )
        if self.time is not None:
            parse_duration(self.time)

    @property
    def seconds(self) -> float | None:
        return None if self.time is None else parse_duration(self.time)

    @property
    def gated(self) -> bool:
        return self.max_kld is not None or self.max_accuracy_loss is not None

    @property
    def levels(self) -> tuple[str, ...]:
        """Those that are tried: more work follows where the usual one misses a goal of quality, in the end learning."""
        goes_on = self.gated and self.level == "balanced" and not self.algorithm
        return ("balanced", "best", "qat") if goes_on else (self.level,)

    def most_bytes(self, parameters: int) -> int:
        """The goal in bytes, for a model of so many parameters."""
        if self.to_size is not None:
            return self.to_size
        text = str(self.smaller).removesuffix("%")
        try:
            percent = float(text)
        except ValueError:
            percent = -1.0
        if not 0 < percent < 100:
            raise UsageError(
                "--smaller {value} is not a percentage between 0 and 100.", hint="For example: --smaller 85%", value=self.smaller
            )
        return int(parameters * (4 if self.relative_to == "fp32" else 2) * (1 - percent / 100))


UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d)")


def parse_duration(text: str) -> float:
    """Seconds of "2h", "30min" or "1h30m". Raises UsageError for what is none."""
    parts = DURATION.findall(text)
    seconds = sum(float(count) * UNITS[unit] for count, unit in parts)
    if not seconds or "".join(map("".join, parts)) != text:
        raise UsageError("--time {value} is not a duration.", hint="For example: --time 2h, or 30min", value=text)
    return seconds
