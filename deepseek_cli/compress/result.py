"""What a run of `compress` comes to: the frontier, the manifest, and both of a run that was before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.compress.candidates import Planner
from deepseek_cli.compress.loop import Attempt
from deepseek_cli.compress.plan import Candidate
from deepseek_cli.compress.spec import CompressSpec
from deepseek_cli.handle import ModelHandle
from deepseek_cli.manifest import Manifest, step
from deepseek_cli.quantize.engine import Quantized
from deepseek_cli.quantize.folder import lineage
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.spec import as_record


@dataclass(frozen=True, slots=True)
class Compressed:
    """`met` is whether the folder on disk is within `goal_bytes`; `frontier` is every candidate; `decisions` are the steps'."""

    result: Quantized
    goal_bytes: int
    folder_bytes: int
    met: bool
    frontier: tuple[Candidate, ...]
    decisions: tuple[Mapping[str, Any], ...] = ()


def manifest_of(
    handle: ModelHandle,
    spec: CompressSpec,
    best: Attempt,
    answers: Mapping[str, Any],
    name: str,
    frontier: Sequence[Candidate],
    options: Mapping[str, Any],
) -> Manifest:
    assert best.result.manifest
    return dataclasses.replace(
        best.result.manifest,
        name=name,
        parent=handle.digest,
        source=lineage(handle),
        steps=(*best.result.manifest.steps, step("compress", as_record(dataclasses.replace(spec, html=None)), dict(options))),
        report={
            **best.report,
            "sanity": dict(answers),
            "frontier": [dataclasses.asdict(candidate) for candidate in frontier],
            "decisions": [dict(decision) for decision in best.planned.shape.decisions],
        },
    )


def frontier_of(planners: Sequence[Planner], attempts: Sequence[Attempt], best: Attempt | None = None) -> tuple[Candidate, ...]:
    """Every candidate, the largest first within its shape, with what was measured of those that were carried out."""
    carried = {_key(a.planned.candidate): dataclasses.replace(a.candidate, chosen=a is best) for a in attempts}
    found: dict[tuple[object, ...], Candidate] = {}
    for planner in planners:
        rows = [p.candidate for p in (*planner.mixture(), *planner.ladder())]
        rows += [a.candidate for a in attempts if a.planned.shape is planner.shape]
        for row in sorted(rows, key=lambda c: -c.size_bytes):
            found[_key(row)] = carried.get(_key(row), row)
    return tuple(found.values())


def _key(candidate: Candidate) -> tuple[object, ...]:
    return candidate.steps, candidate.scheme, candidate.embeddings, candidate.level, candidate.size_bytes


def known_result(final: Path, manifest: Manifest, goal: int, handle: ModelHandle) -> Compressed:
    """What was made before, as its manifest describes it."""
    report = manifest.report or {}
    options = manifest.steps[-2]["resolved"]
    plan = make_plan(handle, QuantizeSpec(scheme=options["scheme"], embeddings=options["embeddings"]))
    result = Quantized(manifest.name, final, plan, handle.size_bytes, manifest, unchanged=True)
    size = folder_bytes(final)
    frontier = tuple(Candidate(**row) for row in report.get("frontier", ()))
    return Compressed(result, goal, size, size <= goal, frontier, tuple(report.get("decisions", ())))


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def record(compressed: Compressed) -> list[dict[str, object]]:
    """The frontier as plain values."""
    return [dataclasses.asdict(candidate) for candidate in compressed.frontier]
