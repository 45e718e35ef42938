"""What can be said to `deepseek profile`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepseek_cli.errors import UsageError
from deepseek_cli.spec import Size, option, parse_share

FEWEST = 5  # iterations from which a slope can be told from noise


@dataclass(frozen=True, slots=True)
class ProfileSpec:
    memory_profile: bool = option(False, help="write the report as one offline page, <name>-memory.html")
    html: Path | None = option(None, help="write the page to this file", metavar="FILE")
    save: tuple[Path, ...] = option((), help="write the figures to a .json, .md or .trace.json file", metavar="FILE")
    estimate: bool = option(False, help="what it would take, and on which devices, from the config alone; nothing is run")
    batch: int = option(1, help="rows at once, of an estimate", brief=False)
    kv: Literal["fp32", "fp16", "int8"] | None = option(None, help="how wide the KV cache is, of an estimate")
    scheme: str | None = option(None, help="estimate the model as quantized so, such as int4-g64", metavar="NAME")
    prompt_tokens: int = option(512, help="tokens of the prompt")
    new_tokens: int = option(32, help="tokens to generate after it")
    max_peak: Size | None = option(None, help="exit 1 if the peak is larger, such as 2GiB")
    baseline: Path | None = option(None, help="compare with an earlier --save FILE.json", metavar="FILE")
    max_growth: str | None = option(None, help="exit 1 if the peak grew by more against --baseline, such as 5%", metavar="SHARE")
    leak: int | None = option(None, help="repeat the work N times, and exit 1 if memory grows each time", metavar="N")
    sample_ms: float = option(5.0, help="milliseconds between two points of the timeline", rare=True)
    operators: bool = option(True, help="look again at each operator: its time, and what it allocates", rare=True)
    overhead: bool = option(False, help="run once more unwatched, to tell what watching costs; a page always does", rare=True)

    bandwidth: Size | None = option(None, help="bytes a second of this machine's memory, instead of measuring", rare=True)

    def __post_init__(self) -> None:
        self._check_estimate()
        if self.prompt_tokens < 1 or self.new_tokens < 1:
            raise UsageError("--prompt-tokens and --new-tokens must be at least 1.", hint="Leave them out for 512 and 32.")
        if self.max_growth and parse_share(self.max_growth) is None:
            raise UsageError("--max-growth {text!r} is not a share.", hint="Write it like 5%.", text=self.max_growth)
        if self.max_growth and not self.baseline:
            raise UsageError("--max-growth needs something to grow from.", hint="Add --baseline FILE.json.")
        if self.leak is not None and self.leak < FEWEST:
            raise UsageError("--leak must be at least {least}.", hint="Use --leak 20: fewer say nothing sure.", least=FEWEST)
        if not 1 <= self.sample_ms <= 1000:
            raise UsageError("sample_ms must lie between 1 and 1000.", hint="Leave it out for 5.")
        wrong = next((path for path in self.save if path.suffix not in (".json", ".md")), None)
        if wrong:
            raise UsageError(
                "--save {file}: only .json, .md and .trace.json are known.", hint="End the name in one of them.", file=wrong
            )

    def _check_estimate(self) -> None:
        if self.batch < 1:
            raise UsageError("--batch must be at least 1.", hint="Leave it out for 1.")
        only = (("--batch", self.batch > 1), ("--kv", self.kv), ("--scheme", self.scheme))
        never = (("--save", self.save), ("--baseline", self.baseline))
        flag = next((flag for flag, given in (never if self.estimate else only) if given), None)
        if flag and self.estimate:
            raise UsageError("{flag} is for a measured run.", hint="Leave it out, or --estimate; --json prints it.", flag=flag)
        if flag:
            raise UsageError("{flag} is for --estimate.", hint="Add --estimate.", flag=flag)

    @property
    def growth(self) -> float | None:
        """--max-growth as a factor: 0.05 for 5%."""
        return parse_share(self.max_growth or "")
