"""`compress`: what to leave out and the schemes of what is left, so that the whole folder meets a size; written and measured."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.compress.plan import Candidate, Steps, beside, beside_written, first_that_fits, schemes
from deepseek_cli.compress.quality import report_card
from deepseek_cli.compress.shape import Shape
from deepseek_cli.compress.spec import CompressSpec
from deepseek_cli.compress.steps import parse_steps
from deepseek_cli.compress.write import write
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.manifest import Manifest, step, write_manifest
from deepseek_cli.profile.devices import find_device
from deepseek_cli.profile.estimate import beside_weights
from deepseek_cli.profile.sketch import sketch_of
from deepseek_cli.quantize.checkpoint import Checkpoint
from deepseek_cli.quantize.engine import Quantized, quantize, unchanged
from deepseek_cli.quantize.folder import lineage
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.spec import as_record, format_size
from deepseek_cli.store import Store, making_room, passing, require_new, result_name, staged


@dataclass(frozen=True, slots=True)
class Compressed:
    """`met` is whether the folder on disk is within `goal_bytes`; `frontier` is every candidate; `decisions` are the steps'."""

    result: Quantized
    goal_bytes: int
    folder_bytes: int
    met: bool
    frontier: tuple[Candidate, ...]
    decisions: tuple[Mapping[str, Any], ...] = ()


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
    """The largest candidate that meets the goal, or the smallest where none does.

    Raises what `quantize` raises, UsageError for steps that the model has nothing for, an unknown device, or one with no room.
    """
    goal = goal_bytes(handle, spec)
    if parse_steps(spec.steps or ""):
        return _with_steps(handle, spec, goal, store, output, force, dry_run, agreed, reporter)
    frontier = schemes(handle, goal, beside(handle))
    chosen = first_that_fits(frontier)
    _tell(goal, chosen, reporter)
    label = f"{goal / 1e6:.4g}MB"
    result = quantize(
        handle, _spec(chosen, spec), store, output, label=label, force=force, dry_run=dry_run, agreed=agreed, reporter=reporter
    )
    size = chosen.size_bytes if dry_run else _folder_bytes(result.path)
    return Compressed(result, goal, size, size <= goal, frontier)


def goal_bytes(handle: ModelHandle, spec: CompressSpec) -> int:
    """Raises UsageError for a device that is not known, or has no room for any model of this shape."""
    if spec.fit is None:
        return spec.most_bytes(handle.parameters)
    device = find_device(spec.fit)
    other = beside_weights(sketch_of(handle))
    if device.usable_bytes <= other:
        raise UsageError(
            "{device} leaves {usable} to a model, and {model} needs {other} beside its weights.",
            hint="Choose a larger device.",
            device=device.name,
            usable=format_size(device.usable_bytes),
            model=handle.name,
            other=format_size(other),
        )
    return device.usable_bytes - other


def _with_steps(
    handle: ModelHandle,
    spec: CompressSpec,
    goal: int,
    store: Store,
    output: Path | None,
    force: bool,
    dry_run: bool,
    agreed: bool,
    reporter: Reporter,
) -> Compressed:
    name = result_name(handle.name, "compressed", f"{goal / 1e6:.4g}MB")
    final = output or store.models / name
    asked = {"goal_bytes": goal, "steps": spec.steps, "calibration": spec.calibration}
    if not force and not dry_run and (known := unchanged(final, "compress", asked, handle)):
        return _known(final, known, goal, open_model(str(final), store))
    work = final.with_name(f"{final.name}.work")
    if not dry_run:
        require_new(final, force)
        if force:
            Checkpoint.discard(work)
        with making_room(final):
            final.parent.mkdir(parents=True, exist_ok=True)
    with passing(final) if not dry_run else contextlib.nullcontext(None) as folder:
        with tempfile.TemporaryDirectory() as ranks:
            steps = Steps(handle, spec.steps or "", spec.calibration, Path(ranks), reporter, work)
            chosen, frontier, shape = _choose(steps, goal)
            _tell(goal, chosen, reporter)
            if folder is None:
                plan = make_plan(shape.handle, _spec(chosen, spec))
                planned = Quantized(name, final, plan, plan.bytes_with(shape.handle.tensors))
                return Compressed(planned, goal, chosen.size_bytes, chosen.fits, frontier, shape.decisions)
            write(shape, handle, (), folder / "pruned", reporter)
        pruned = open_model(str(folder / "pruned"), store)
        options = dataclasses.replace(_spec(chosen, spec), report=False)
        result = quantize(pruned, options, store, folder / "result", agreed=agreed, reporter=reporter)
        small = dataclasses.replace(open_model(str(result.path), store), name=name)
        assert result.manifest
        manifest = dataclasses.replace(
            result.manifest,
            name=name,
            parent=handle.digest,
            source=lineage(handle),
            steps=(*result.manifest.steps, step("compress", as_record(spec), asked)),
            report={
                **report_card(handle, small, shape.kept, reporter),
                "frontier": [dataclasses.asdict(candidate) for candidate in frontier],
                "decisions": [dict(decision) for decision in shape.decisions],
            },
        )
        with staged(final, force) as staging:
            for file in result.path.iterdir():
                file.replace(staging / file.name)
            write_manifest(staging, manifest)
        Checkpoint.discard(work)
    size = _folder_bytes(final)
    result = dataclasses.replace(result, name=name, path=final, manifest=manifest)
    return Compressed(result, goal, size, size <= goal, frontier, shape.decisions)


def _choose(steps: Steps, goal: int) -> tuple[Candidate, tuple[Candidate, ...], Shape]:
    """The first candidate that fits, from the largest shape on, so that no more is left out than must be."""
    frontier: tuple[Candidate, ...] = ()
    for text, shape in steps.plans():
        frontier += schemes(shape.handle, goal, beside_written(shape), text)
        if any(candidate.fits for candidate in frontier):
            break
    return first_that_fits(frontier), frontier, shape


def _known(final: Path, manifest: Manifest, goal: int, handle: ModelHandle) -> Compressed:
    """What was made before, as its manifest describes it."""
    report = manifest.report or {}
    options = manifest.steps[-2]["resolved"]
    plan = make_plan(handle, QuantizeSpec(scheme=options["scheme"], embeddings=options["embeddings"]))
    result = Quantized(manifest.name, final, plan, handle.size_bytes, manifest, unchanged=True)
    size = _folder_bytes(final)
    frontier = tuple(Candidate(**row) for row in report.get("frontier", ()))
    return Compressed(result, goal, size, size <= goal, frontier, tuple(report.get("decisions", ())))


def _tell(goal: int, chosen: Candidate, reporter: Reporter) -> None:
    facts = {"goal": round(goal / 1e6, 1), "scheme": chosen.scheme, "embeddings": chosen.embeddings}
    if chosen.steps:
        reporter.note("Goal {goal} MB: {steps}, then {scheme}, embeddings {embeddings}.", **facts, steps=chosen.steps)
    else:
        reporter.note("Goal {goal} MB: {scheme}, embeddings {embeddings}.", **facts)


def _spec(candidate: Candidate, spec: CompressSpec) -> QuantizeSpec:
    reads_text = candidate.scheme.startswith("int4")
    return QuantizeSpec(
        scheme=candidate.scheme, embeddings=candidate.embeddings, calibration=spec.calibration if reads_text else "builtin"
    )


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def record(compressed: Compressed) -> list[dict[str, object]]:
    """The frontier as plain values."""
    return [dataclasses.asdict(candidate) for candidate in compressed.frontier]
