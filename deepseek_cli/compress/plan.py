"""The plans that could meet a size: what to leave out, and the schemes of what is left, from most to fewest bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.compress.steps import Cut, Step, find_step, format_share, parse_steps
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize.calibration import read_calibration
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer

TOKENS = 4096  # of calibration text, that steps look at
NAMED_BYTES = 400  # of a tensor, in header, config and manifest
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

    def plans(self) -> Iterator[tuple[str, Shape]]:
        """The shapes that they can come to, from the largest; those without a share take each of their own."""
        return self._from(self.shape, self.steps, ())

    def _from(self, shape: Shape, steps: Sequence[tuple[Cut, Step]], done: tuple[str, ...]) -> Iterator[tuple[str, Shape]]:
        if not steps:
            yield ",".join(done), shape
            return
        (cut, step), *rest = steps
        rank = step.rank(shape, self.context)
        for amount in [cut.amount] if cut.amount else [format_share(share) for share in step.shares] or [""]:
            smaller = step.cut(shape, rank, amount, self.context)
            yield from self._from(smaller, rest, (*done, str(Cut(cut.name, amount))))


def beside(handle: ModelHandle, tokenizer: Tokenizer) -> int:
    """Bytes of tokenizer, config and manifest, as they will be written."""
    words = len(tokenizer.fast.to_str().encode()) + len(tokenizer.template.encode())
    return REPORT_BYTES + words + NAMED_BYTES * len(handle.stored) + len(json.dumps(dict(handle.raw_config)))
