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
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer

TOKENS = 4096  # of calibration text, that steps look at
NAMED_BYTES = 400  # of a tensor, in header, config and manifest
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
    scheme: str
    embeddings: str
    size_bytes: int  # of the whole folder, as predicted
    fits: bool
    steps: str = ""  # what is left out


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


def schemes(handle: ModelHandle, goal: int, beside: int, steps: str = "") -> tuple[Candidate, ...]:
    """One candidate for each rung of the ladder, the largest first; the tokenizer's files take `beside` bytes."""
    found = (_candidate(handle, *rung, goal, beside, steps) for rung in LADDER)
    return tuple(sorted(found, key=lambda candidate: -candidate.size_bytes))


def first_that_fits(candidates: Sequence[Candidate]) -> Candidate:
    """The smallest where none does."""
    smallest = min(candidates, key=lambda candidate: candidate.size_bytes)
    return next((candidate for candidate in candidates if candidate.fits), smallest)


def _candidate(handle: ModelHandle, scheme: str, embeddings: str, goal: int, beside: int, steps: str) -> Candidate:
    plan = make_plan(handle, QuantizeSpec(scheme=scheme, embeddings=embeddings))
    size = plan.bytes_with(handle.tensors) + beside
    return Candidate(scheme, embeddings, size, size <= goal, steps)


def beside(handle: ModelHandle) -> int:
    """Bytes of tokenizer, config and manifest; a GGUF's tokenizer is written out, at about 60 bytes a token."""
    if handle.root.is_dir():
        return sum(f.stat().st_size for f in handle.root.iterdir() if f.is_file() and f.suffix != ".safetensors")
    return 60 * handle.config.vocabulary


def beside_written(shape: Shape) -> int:
    """The same of what will be written for a shape."""
    tokenizer = len(shape.tokenizer.fast.to_str().encode()) + len(shape.tokenizer.template.encode())
    return tokenizer + NAMED_BYTES * len(shape.handle.stored) + len(json.dumps(dict(shape.handle.raw_config)))
