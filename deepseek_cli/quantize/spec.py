"""What can be said to `deepseek quantize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepseek_cli.errors import UsageError
from deepseek_cli.schemes import Scheme, parse_scheme
from deepseek_cli.spec import option

SMALL_MODEL = 2_000_000_000  # parameters; below, the finer group pays for its scales


@dataclass(frozen=True, slots=True)
class QuantizeSpec:
    int4: bool = option(False, help="4-bit weights in groups (the default)")
    int8: bool = option(False, help="8-bit weights, one scale per row")
    scheme: str | None = option(None, help="a scheme by name, such as int4-g64-asym or bf16", metavar="NAME")
    group: Literal["32", "64", "128", "channel"] | None = option(None, help="inputs per scale; 32 below 2 B parameters, else 64")
    level: Literal["fast", "balanced", "best"] = option("balanced", help="how much work to spend; fast needs no data")
    algorithm: str | None = option(
        None, help="how to round, instead of the level's way: rtn, search, hqq, imatrix, gptq, gptaq, autoround", metavar="NAME"
    )
    rule: tuple[str, ...] = option(
        (), help="a scheme for the tensors a pattern names, such as lm_head=int4", metavar="PATTERN=SCHEME"
    )
    calibration: str = option("builtin", help="a text file to calibrate on, instead of the built-in text", metavar="FILE")
    tokens: int | None = option(None, help="tokens of it to look at")
    language: Literal["en", "zh"] | None = option(None, help="what the calibration text is in, to be checked", rare=True)
    embeddings: str = option("int8", help="scheme of embedding and output head, where no rule says otherwise", rare=True)
    report: bool = option(True, help="measure quality against the source when that takes under two minutes", rare=True)

    def __post_init__(self) -> None:
        named = [flag for flag, given in (("--int4", self.int4), ("--int8", self.int8), ("--scheme", self.scheme)) if given]
        if len(named) > 1:
            raise UsageError("{flags} exclude each other.", hint="Give one of them.", flags=" and ".join(named))
        if self.scheme and self.group:
            raise UsageError("--group and --scheme exclude each other.", hint="Write the group into the scheme: int4-g64.")

        if self.tokens is not None and self.tokens < 1:
            raise UsageError("--tokens {count} is less than one.", hint="Give at least 4096.", count=self.tokens)

    def resolve(self, parameters: int) -> Scheme:
        """The scheme of the body, for a model of so many parameters."""
        if self.scheme:
            return parse_scheme(self.scheme, default_group(parameters))
        group = f"-{self.group if self.group == 'channel' else f'g{self.group}'}" if self.group else ""
        return parse_scheme(f"int8{group}" if self.int8 else f"int4{group}", default_group(parameters))


def default_group(parameters: int) -> int:
    return 32 if parameters < SMALL_MODEL else 64
