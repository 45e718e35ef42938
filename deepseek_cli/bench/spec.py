"""What can be said to `deepseek bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.bench.load import Load, parse_loads
from deepseek_cli.errors import UsageError
from deepseek_cli.ops import SparseSpec
from deepseek_cli.spec import Size, option, parse_share

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
    packed_cache: Size | None = option(
        None, help="keep weights packed for this machine, in so many bytes: less memory; --fast-prefill keeps 10GB", rare=True
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
    serve: tuple[str, ...] = option(
        (), help="measure a server under load instead: any of OpenAI's API, or ours over a bundle", metavar="URL|BUNDLE"
    )
    load: str = option("1,16", help="with --serve: clients that ask in turn, or requests a second", metavar="N|RATE/s,...")
    requests: int = option(32, help="with --serve: requests of each load in a round", rare=True)
    first_limit: float = option(1000.0, help="with --serve: most ms to the first token that goodput allows", rare=True)
    gap_limit: float = option(200.0, help="with --serve: most ms for each token behind it that goodput allows", rare=True)
    api_key_file: Path | None = option(None, help="with --serve: whose first word is the key", metavar="FILE", rare=True)
    ignore_end: bool = option(True, help="with --serve: ask for all of --new-tokens, by ignore_eos", rare=True)
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
        for name in ("requests", "first_limit", "gap_limit"):
            if getattr(self, name) <= 0:
                raise UsageError("{name} must be more than 0.", hint="Change it.", name=name)
        parse_loads(self.load)
        if self.serve and (self.sparse_attention or self.fast_prefill or self.quality or self.baseline or self.max_slowdown):
            raise UsageError(
                "--serve measures how a server answers, not what {flags} are about.",
                hint="Leave them out.",
                flags="--sparse-attention, --fast-prefill, --quality, --baseline and --max-slowdown",
            )
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
    def loads(self) -> tuple[Load, ...]:
        return parse_loads(self.load)

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
