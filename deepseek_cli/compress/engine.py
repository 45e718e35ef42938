"""`compress`: the schemes whose whole folder meets a size, tried from the finest down."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.compress.spec import CompressSpec
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.store import Store

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


@dataclass(frozen=True, slots=True)
class Compressed:
    """`met` is whether the folder on disk is within `goal_bytes`; `frontier` is every candidate."""

    result: Quantized
    goal_bytes: int
    folder_bytes: int
    met: bool
    frontier: tuple[Candidate, ...]


def compress(
    handle: ModelHandle,
    spec: CompressSpec,
    store: Store,
    output: Path | None = None,
    *,
    force: bool = False,
    dry_run: bool = False,
    agreed: bool = False,
    reporter: Reporter = SILENT,
) -> Compressed:
    """The candidate with the most bits that meets the goal, or the smallest where none does. Raises what `quantize` raises."""
    goal = spec.most_bytes(handle.parameters)
    frontier = tuple(sorted((_candidate(handle, *rung, goal) for rung in LADDER), key=lambda c: -c.size_bytes))
    chosen = next((c for c in frontier if c.fits), frontier[-1])
    reporter.note(
        "Goal {goal} MB: {scheme}, embeddings {embeddings}.",
        goal=round(goal / 1e6, 1),
        scheme=chosen.scheme,
        embeddings=chosen.embeddings,
    )
    label = f"{goal / 1e6:.4g}MB"
    result = quantize(
        handle, _spec(chosen), store, output, label=label, force=force, dry_run=dry_run, agreed=agreed, reporter=reporter
    )
    size = chosen.size_bytes if dry_run else sum(f.stat().st_size for f in result.path.iterdir())
    return Compressed(result, goal, size, size <= goal, frontier)


def _spec(candidate: Candidate) -> QuantizeSpec:
    return QuantizeSpec(scheme=candidate.scheme, embeddings=candidate.embeddings)


def _candidate(handle: ModelHandle, scheme: str, embeddings: str, goal: int) -> Candidate:
    plan = make_plan(handle, QuantizeSpec(scheme=scheme, embeddings=embeddings))
    size = plan.bytes_with(handle.tensors) + beside(handle)
    return Candidate(scheme, embeddings, size, size <= goal)


def beside(handle: ModelHandle) -> int:
    """Bytes of tokenizer, config and manifest; a GGUF's tokenizer is written out, at about 60 bytes a token."""
    if handle.root.is_dir():
        return sum(f.stat().st_size for f in handle.root.iterdir() if f.is_file() and f.suffix != ".safetensors")
    return 60 * handle.config.vocabulary


def record(compressed: Compressed) -> list[dict[str, object]]:
    """The frontier as plain values."""
    return [dataclasses.asdict(candidate) for candidate in compressed.frontier]
