"""What can be said to `deepseek bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.errors import UsageError
from deepseek_cli.ops import SparseSpec
from deepseek_cli.spec import PACKED_CACHE, Size, option, parse_share

FORMATS = (".json", ".md", ".csv", ".svg", ".xml")


@dataclass(frozen=True, slots=True)
class BenchSpec:
    prompt_tokens: str = option("512", help="tokens of the prompt", metavar="N,...")
    new_tokens: str = option("64", help="tokens to generate at each depth", metavar="N,...")
    depth: str = option("0,512", help="tokens in the KV cache where decoding starts", metavar="N,...")
    sparse_attention: str | None = option(
        None, help="measure each model again, attending to a part of its keys: tokens=N,heads=SHARE", metavar="tokens=N"
    )
    fast_prefill: bool = option(False, help="measure each model again, its prompts through a second, int8 form of the weights")
    packed_cache: Size = option(
        PACKED_CACHE, help="most bytes of weights that are kept packed for this machine; 0 keeps none", rare=True
    )
    rounds: int = option(8, help="measured rounds; every model takes its turn in each")
    quality: bool = option(False, help="KL divergence, agreement and perplexity, measured where no report card has them")
    baseline: Path | None = option(None, help="compare with an earlier --save FILE.json", metavar="FILE")
    max_slowdown: str | None = option(
        None, help="exit 1 if prefill or decode is surely slower, than --baseline or the first model, such as 5%", metavar="SHARE"
    )
    save: tuple[Path, ...] = option(
        (), help="write a .json, .md, .csv file, a .svg chart, or .xml of JUnit's form", metavar="FILE"
    )
    starts: int = option(3, help="processes to start for load and start times, with the files cached and not", rare=True)
    roofline: bool = option(True, help="measure what this machine could reach", rare=True)

    def __post_init__(self) -> None:
        for flag, text, least in (
            ("--prompt-tokens", self.prompt_tokens, 1),
            ("--new-tokens", self.new_tokens, 1),
            ("--depth", self.depth, 0),
        ):
            words = [word.strip() for word in text.split(",")]
            if not all(word.isdecimal() and int(word) >= least for word in words):
                raise UsageError(
                    "{flag} {text!r} is not a list of token counts.",
                    hint="Write it like 512,2048; each is at least {least}.",
                    flag=flag,
                    text=text,
                    least=least,
                )
        if self.rounds < 1:
            hint = "Leave it out for its default."
            raise UsageError("{flag} must be at least 1, not {value}.", hint=hint, flag="--rounds", value=self.rounds)
        if self.starts < 0:
            raise UsageError("starts must not be negative.", hint="0 leaves the start times out.")
        if self.sparse_attention:
            SparseSpec.parse(self.sparse_attention)
        if self.max_slowdown and parse_share(self.max_slowdown) is None:
            raise UsageError(
                "{flag} {text!r} is not a share.", hint="Write it like 5%.", flag="--max-slowdown", text=self.max_slowdown
            )
        wrong = next((path for path in self.save if path.suffix not in FORMATS), None)
        if wrong:
            raise UsageError(
                "--save {file}: only .json, .md, .csv, .svg and .xml are known.", hint="End the name in one of them.", file=wrong
            )

    @property
    def prompts(self) -> tuple[int, ...]:
        return _counts(self.prompt_tokens)

    @property
    def news(self) -> tuple[int, ...]:
        return _counts(self.new_tokens)

    @property
    def depths(self) -> tuple[int, ...]:
        return _counts(self.depth)

    @property
    def slowdown(self) -> float | None:
        """--max-slowdown as a number: 0.05 for 5%."""
        return parse_share(self.max_slowdown or "")

    @property
    def longest(self) -> int:
        """The context that a round needs."""
        return max(self.prompts[-1], self.depths[-1] + self.news[-1])


def _counts(text: str) -> tuple[int, ...]:
    """Each once, in rising order."""
    return tuple(sorted({int(word) for word in text.split(",")}))
