"""The plans that could meet a size: what to leave out, and the schemes of what is left, from most to fewest bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.compress.steps import Cut, find_step, format_share, parse_steps
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize.calibration import read_calibration
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer

TOKENS = 4096  # of calibration text, that steps look at
NAMED_BYTES = 480  # of a tensor, in header, config and manifest, with the scheme that a mixture gives it
REPORT_BYTES = 12288  # of a manifest, for what is written at the end: the report card, the frontier, answers
LADDER = (  # body and embeddings, from most bits to fewest
    ("int8-g32", "int8-g32"),
    ("int8", "int8"),
    ("int4-g32", "int8"),
    ("int4-g64", "int8"),
    ("int4-g128", "int8"),
    ("int4-g32", "int4-g32"),
    ("int4-g64", "int4-g64"),
    ("int4-g128", "int4-g128"),
)
LAST = ("int3-g128", "int3-g128")  # where nothing on the ladder fits: bundles hold its codes in four bits


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a plan would come to, and, where it was carried out, what it came to."""

    scheme: str
    embeddings: str
    size_bytes: int  # of the whole folder, as predicted
    fits: bool
    steps: str = ""  # what is left out
    level: str = "balanced"
    kl: float | None = None  # as predicted, in nats
    memory_bytes: int | None = None  # that it runs in, with an everyday context
    seconds: float | None = None  # to make it
    measured_kl: float | None = None
    measured_bytes: int | None = None
    chosen: bool = False

    @property
    def label(self) -> str:
        """What its files are named after."""
        return f"{self.steps}-{self.scheme}-{self.embeddings}-{self.level}-{self.size_bytes}".strip("-")


class Steps:
    """The steps that a user asked for; each ranks once, and then cuts any share.

    Raises UsageError for an unknown step, one that the model has nothing for, or a calibration text that does not serve.
    """

    def __init__(
        self, handle: ModelHandle, text: str, calibration: str, folder: Path, reporter: Reporter, work: Path | None = None
    ) -> None:
        tokenizer = open_tokenizer(handle.root)
        windows = read_calibration(tokenizer, calibration, TOKENS, handle.config.context).windows
        self.shape = Shape(handle, tokenizer, windows)
        self.context = Context(folder, calibration, reporter, handle, work)
        self.steps = [(cut, find_step(cut.name, reporter)) for cut in parse_steps(text)]
        for cut, step in self.steps:
            step.refuse(self.shape, cut.amount)
        self.made: dict[tuple[str, ...], Shape] = {(): self.shape}  # by the amounts of the steps up to there
        self.ranks: dict[tuple[str, ...], Any] = {}  # of the next step

    def plans(self) -> Iterator[tuple[str, Shape]]:
        """The shapes that they can come to, those that lose the least share first; steps without one take each of their own."""
        shares = [step.shares if step.shares and not cut.amount else (0.0,) for cut, step in self.steps]
        for chosen in sorted(product(*shares), key=lambda shares: -prod(1 - share for share in shares)):
            amounts = tuple(
                format_share(share) if share else cut.amount for share, (cut, _) in zip(chosen, self.steps, strict=True)
            )
            names = (str(Cut(cut.name, amount)) for amount, (cut, _) in zip(amounts, self.steps, strict=True))
            yield ",".join(names), self._cut(amounts)

    def _cut(self, amounts: tuple[str, ...]) -> Shape:
        """The shape behind the first steps, with what they were given; each place ranks once, and cuts a share once."""
        if amounts not in self.made:
            before = amounts[:-1]
            shape, (_, step) = self._cut(before), self.steps[len(before)]
            if before not in self.ranks:
                self.ranks[before] = step.rank(shape, self.context)
            self.made[amounts] = step.cut(shape, self.ranks[before], amounts[-1], self.context)
        return self.made[amounts]


def beside(handle: ModelHandle, tokenizer: Tokenizer) -> int:
    """Bytes of tokenizer, config and manifest, as they will be written."""
    words = len(tokenizer.fast.to_str().encode()) + len(tokenizer.template.encode())
    return REPORT_BYTES + words + NAMED_BYTES * len(handle.stored) + len(json.dumps(dict(handle.raw_config)))
