"""What can be said to `deepseek quantize`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from deepseek_cli.errors import UsageError
from deepseek_cli.schemes import Scheme, parse_scheme
from deepseek_cli.spec import Size, option

EMBEDDINGS = "int8"  # unless something else is said
FORMS = (None, "int4", "int4-asym", "int4-pos")  # of a scheme whose bits and groups a goal chooses
MOST_RANK = 9999  # that a scheme's name holds
SMALL_MODEL = 1_000_000_000  # parameters; from there on int4 is 85 % smaller than float32, for which g32 is too fine


@dataclass(frozen=True, slots=True)
class QuantizeSpec:
    int4: bool = option(False, help="4-bit weights in groups (the default)")
    int8: bool = option(False, help="8-bit weights, in groups; from 1 B parameters on one scale per row")
    scheme: str | None = option(None, help="a scheme by name, such as int4-g64-asym or bf16", metavar="NAME")
    group: Literal["32", "64", "128", "channel"] | None = option(None, help="inputs per scale; 32 below 1 B parameters, else 64")
    level: Literal["fast", "balanced", "best"] = option("balanced", help="how much work to spend: seconds, minutes, or more")
    algorithm: str | None = option(
        None,
        help="how to round, instead of the level's way: rtn, search, hqq, imatrix, awq, gptq, gptaq, refine, autoround",
        metavar="NAME",
    )
    rule: tuple[str, ...] = option(
        (), help="a scheme for the tensors a pattern names, such as lm_head=int4", metavar="PATTERN=SCHEME"
    )
    qat: bool = option(False, help="weights learn to be quantized: minutes to hours more, for int4 and int8")
    to_bpw: float | None = option(None, help="bits per weight of the whole result, such as 4.2: more where they matter most")
    to_size: Size | None = option(None, help="the same as the bytes of all tensors, such as 900MB")
    calibration: str = option("builtin", help="a text file to calibrate on, instead of the built-in text", metavar="FILE")
    tokens: int | None = option(None, help="tokens of it to look at")
    steps: int | None = option(None, help="steps of distillation, of --qat or behind any other way", rare=True)
    rate: float | None = option(None, help="how far of itself a scale moves in a step of distillation", rare=True)
    language: Literal["en", "zh"] | None = option(None, help="what the calibration text is in, to be checked", rare=True)
    rank: int | None = option(None, help="rank of a low-rank correction beside the codes of each weight, such as 16", rare=True)
    embeddings: str = option(EMBEDDINGS, help="scheme of embedding and output head beside an int4 body", rare=True)
    seed: int = 0  # which stretches of the text are looked at, and the order in which distillation takes them
    report: bool = option(True, help="measure quality against the source when that takes under two minutes", rare=True)

    def __post_init__(self) -> None:
        named = [flag for flag, given in (("--int4", self.int4), ("--int8", self.int8), ("--scheme", self.scheme)) if given]
        if len(named) > 1:
            raise UsageError("{flags} exclude each other.", hint="Give one of them.", flags=" and ".join(named))
        if self.scheme and self.group:
            raise UsageError("--group and --scheme exclude each other.", hint="Write the group into the scheme: int4-g64.")
        self._check_goal()
        if self.qat and self.level != "balanced":
            raise UsageError("{flags} exclude each other.", hint="Give one of them.", flags="--qat and --level")
        if self.steps is not None and self.steps < 0:
            raise UsageError("--set steps={count} is less than zero.", hint="0 leaves distillation out.", count=self.steps)
        if self.rate is not None and not 0 < self.rate < 1:
            raise UsageError("--set rate={rate} is not between 0 and 1.", hint="For example: --set rate=0.001", rate=self.rate)
        if self.rank is not None and not 0 <= self.rank <= MOST_RANK:
            raise UsageError(
                "--set rank={rank} is not between 0 and {most}.",
                hint="For example: --set rank=16",
                rank=self.rank,
                most=MOST_RANK,
            )
        if self.tokens is not None and self.tokens < 1:
            raise UsageError("--tokens {count} is less than one.", hint="Give at least 4096.", count=self.tokens)

    def _check_goal(self) -> None:
        if self.to_bpw is not None and self.to_size is not None:
            raise UsageError("{flags} exclude each other.", hint="Give one of them.", flags="--to-bpw and --to-size")
        if self.to_bpw is not None and not 0 < self.to_bpw <= 16:
            raise UsageError("--to-bpw {bits} is not between 0 and 16.", hint="For example: --to-bpw 4.5", bits=self.to_bpw)
        held = (("--int8", self.int8), ("--group", self.group), ("--scheme", self.scheme not in FORMS))
        flag = next((flag for flag, given in held if given), None)
        if self.goal and flag:
            raise UsageError(
                "{flag} holds what {goal} is to choose.",
                hint="Leave it out, or hold single weights with --rule; --scheme may say int4-asym or int4-pos.",
                flag=flag,
                goal="--to-bpw" if self.to_bpw is not None else "--to-size",
            )

    @property
    def way(self) -> str:
        """How it is rounded, as results are named after it: the level, where nothing else is said."""
        return "-".join(name for name in (self.algorithm, "qat" if self.qat else "") if name) or self.level

    @property
    def goal(self) -> str:
        """The goal as results are named after it, such as 4.2bpw or 900MB; empty without one."""
        if self.to_bpw is not None:
            return f"{self.to_bpw:.6g}bpw"
        return "" if self.to_size is None else f"{self.to_size / 1e6:.6g}MB"

    def resolve(self, parameters: int) -> Scheme:
        """The scheme of the body, for a model of so many parameters."""
        scheme = self._body(parameters)
        if not self.rank:
            return scheme
        if scheme.bits == 16 or scheme.block or scheme.rank:
            raise UsageError(
                "--set rank={rank} does not go with {scheme}.",
                hint="Give it to int3, int4 or int8: once, so or in the name of the scheme.",
                rank=self.rank,
                scheme=str(scheme),
            )
        return replace(scheme, rank=self.rank)

    def _body(self, parameters: int) -> Scheme:
        if self.scheme:
            return parse_scheme(self.scheme, default_group(parameters))
        group = self.group or ("channel" if self.int8 and parameters >= SMALL_MODEL else default_group(parameters))
        return parse_scheme(f"{'int8' if self.int8 else 'int4'}-{'' if group == 'channel' else 'g'}{group}")


def default_group(parameters: int) -> int:
    return 32 if parameters < SMALL_MODEL else 64
