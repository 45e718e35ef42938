"""What can be said to `deepseek bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.errors import UsageError
from deepseek_cli.ops import SparseSpec
from deepseek_cli.spec import PACKED_CACHE, Size, option

FORMATS = (".json", ".md", ".csv")


@dataclass(frozen=True, slots=True)
class BenchSpec:
    prompt_tokens: int = option(512, help="tokens of the prompt")
    new_tokens: int = option(64, help="tokens to generate at each depth")
    depth: str = option("0,512", help="tokens in the KV cache where decoding starts", metavar="N,...")
    sparse_attention: str | None = option(
        None, help="measure each model again, attending to a part of its keys: tokens=N,heads=SHARE", metavar="tokens=N"
    )
    fast_prefill: bool = option(False, help="measure each model again, its prompts through a second, int8 form of the weights")
    packed_cache: Size = option(
        PACKED_CACHE, help="most bytes of weights that are kept packed for this machine; 0 keeps none", rare=True
    )
    rounds: int = option(5, help="measured rounds; every model takes its turn in each")
    save: tuple[Path, ...] = option((), help="write the figures to a .json, .md or .csv file", metavar="FILE")

    def __post_init__(self) -> None:
        counts = {"--prompt-tokens": self.prompt_tokens, "--new-tokens": self.new_tokens, "--rounds": self.rounds}
        for flag, value in counts.items():
            if value < 1:
                hint = "Leave it out for its default."
                raise UsageError("{flag} must be at least 1, not {value}.", hint=hint, flag=flag, value=value)
        words = [word.strip() for word in self.depth.split(",")]
        if not all(word.isdecimal() for word in words):
            raise UsageError("--depth {text!r} is not a list of token counts.", hint="Write it like 0,512.", text=self.depth)
        if self.sparse_attention:
            SparseSpec.parse(self.sparse_attention)
        wrong = next((path for path in self.save if path.suffix not in FORMATS), None)
        if wrong:
            raise UsageError(
                "--save {file}: only .json, .md and .csv are known.",
                hint="End the name in one of them.",
                file=wrong,
            )

    @property
    def depths(self) -> tuple[int, ...]:
        """Each depth once, in rising order."""
        return tuple(sorted({int(word) for word in self.depth.split(",")}))

    @property
    def longest(self) -> int:
        """The context that a round needs."""
        return max(self.prompt_tokens, self.depths[-1] + self.new_tokens)
