"""`compress`: what to leave out and the schemes of what is left, so that the folder meets its goals; written and measured."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.compress import costs
from deepseek_cli.compress.accuracy import accuracy_gate, tell_tokens
from deepseek_cli.compress.candidates import Planned, Planner, seconds_to_make
from deepseek_cli.compress.loop import SHAPES, Attempt, improve, in_order, tell
from deepseek_cli.compress.plan import LADDER, REPORT_BYTES, Steps, beside
from deepseek_cli.compress.quality import divergence, report_card
from deepseek_cli.compress.result import Compressed, folder_bytes, frontier_of, known_result, manifest_of
from deepseek_cli.compress.sanity import compare_answers
from deepseek_cli.compress.search import WORTH, search
from deepseek_cli.compress.shape import Shape
from deepseek_cli.compress.spec import GATE, CompressSpec
from deepseek_cli.compress.steps import parse_steps
from deepseek_cli.compress.write import write
from deepseek_cli.errors import ModelError, UsageError
from deepseek_cli.evaluate import texts_of
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.manifest import write_manifest
from deepseek_cli.profile.devices import find_device
from deepseek_cli.profile.estimate import beside_weights
from deepseek_cli.profile.sketch import sketch_of
from deepseek_cli.quantize.checkpoint import Checkpoint
from deepseek_cli.quantize.engine import Quantized, quantize, unchanged
from deepseek_cli.quantize.method import LONG_SECONDS
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.spec import format_size
from deepseek_cli.store import WORK, Store, copy_file, require_new, result_name, staged


@dataclass(frozen=True, slots=True)
class Asked:
    """What one call was asked for."""

    handle: ModelHandle
    spec: CompressSpec
    goal: int
    texts: Sequence[Path]  # that quality is measured on
    store: Store
    agreed: bool
    reporter: Reporter
    started: float


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
    """The candidate that meets the goals at the least divergence, or the closest where none does.

    Raises what `quantize` raises, UsageError for steps that the model has nothing for, an unknown device, or one with no room.
    """
    asked = Asked(handle, spec, goal_bytes(handle, spec), texts_of(spec.text), store, agreed, reporter, time.monotonic())
    name = result_name(handle.name, _label(asked), f"{asked.goal / 1e6:.4g}MB")
    final = output or store.models / name
    options = {
        "goal_bytes": asked.goal,
        **{
            field: getattr(spec, field)
            for field in ("steps", "time", "level", "algorithm", "max_kld", "max_accuracy_loss", "calibration")
        },
        **({"text": spec.text} if spec.text else {}),
    }
    if spec.max_accuracy_loss is not None:
        tell_tokens(open_tokenizer(handle.root), asked.texts, reporter)
    if dry_run:
        with tempfile.TemporaryDirectory() as ranks:
            return _dry(asked, name, final, _planners(asked, Path(ranks), None))
    asking = {"parent": handle.digest, **options}
    place = final.with_name(final.name + WORK)
    if not force and (known := unchanged(final, "compress", options, handle)):
        if place.is_dir():  # of a run that was stopped when all was done
            Checkpoint(place, asking).remove()
        return known_result(final, known, asked.goal, open_model(str(final), store))
    require_new(final, force)
    goes_on = place.is_dir() and not force
    work = Checkpoint(place, asking, force)
    try:
        with tempfile.TemporaryDirectory(dir=work.folder) as ranks:
            planners = _planners(asked, Path(ranks), work.folder)
            best, attempts = improve(
                planners,
                asked.goal - REPORT_BYTES,
                spec,
                lambda planned: _attempt(asked, planned, work.folder, name),
                reporter,
                asked.started,
            )
            best, attempts = search_further(asked, planners, best, attempts, work.folder, name)
    except (UsageError, ModelError):
        if not goes_on:  # else what is wrong now was right before
            work.remove()
        raise
    small = dataclasses.replace(open_model(str(best.result.path), store), name=name)
    answers = compare_answers(handle, small, reporter, always=spec.gated)
    frontier = frontier_of(planners, attempts, best)
    manifest = manifest_of(handle, spec, best, answers, name, frontier, options)
    with staged(final, force) as staging:
        for file in best.result.path.iterdir():
            copy_file(file, staging / file.name)  # not moved: a run that is stopped here would leave neither complete
        write_manifest(staging, manifest)
    work.remove()
    size = folder_bytes(final)
    result = dataclasses.replace(best.result, name=name, path=final, manifest=manifest)
    return Compressed(result, asked.goal, size, size <= asked.goal, frontier, best.planned.shape.decisions)


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


def _label(asked: Asked) -> str:
    """What results are named after: the ladder's first rung where all of it fits, since then nothing is to be chosen."""
    if parse_steps(asked.spec.steps or ""):
        return "compressed"
    plan = make_plan(asked.handle, QuantizeSpec(scheme=LADDER[0][0], embeddings=LADDER[0][1]))
    size = plan.bytes_with(asked.handle.tensors) + beside(asked.handle, open_tokenizer(asked.handle.root))
    return LADDER[0][0] if size <= asked.goal else costs.MIXED


def _planners(asked: Asked, ranks: Path, work: Path | None) -> list[Planner]:
    """Those of the shapes that fit, from the largest on. Three bits are for sizes that four do not reach, not for devices."""
    planners = _fitting(asked, _shapes(asked, ranks, work), 4, work)
    if asked.spec.fit or any(planner.ladder()[-1].candidate.fits for planner in planners):
        return planners
    return _fitting(asked, [(planner.steps, planner.shape) for planner in planners], 3, work)


def _fitting(asked: Asked, shapes: Iterable[tuple[str, Shape]], fewest_bits: int, work: Path | None) -> list[Planner]:
    """One for each shape up to the first that fit; those that fit know what rounding costs, where there is time to measure it."""
    planners: list[Planner] = []
    fitting, learns = 0, any(cut.name == "recover" for cut in parse_steps(asked.spec.steps or ""))
    for steps, shape in shapes:
        planner = Planner(shape, steps, asked.spec.calibration, asked.goal, beside(shape.handle, shape.tokenizer))
        spec = asked.spec
        planner = dataclasses.replace(planner, level=spec.level, algorithm=spec.algorithm, fewest_bits=fewest_bits)
        ladder = planner.ladder()
        measurable = work or not learns  # to look at weights that learn is to let them learn
        if measurable and ladder[-1].candidate.fits and (steps or not ladder[0].candidate.fits):
            planner = _with_costs(asked, planner, work and work / f"costs-{len(planners)}.json")
        planners.append(planner)
        fitting += ladder[-1].candidate.fits
        if fitting == (1 if learns else SHAPES):
            break
    return planners


def _shapes(asked: Asked, ranks: Path, work: Path | None) -> Iterator[tuple[str, Shape]]:
    return Steps(asked.handle, asked.spec.steps or "", asked.spec.calibration, ranks, asked.reporter, work).plans()


def _with_costs(asked: Asked, planner: Planner, kept: Path | None) -> Planner:
    handle, limit = planner.shape.handle, asked.spec.seconds or LONG_SECONDS
    seconds = costs.seconds_for(handle)
    if time.monotonic() - asked.started + seconds > limit and not (asked.agreed and asked.spec.time is None):
        asked.reporter.warn(
            "Measuring what each weight matters would take about {hours:.1f} hours; one scheme is chosen for all.",
            hours=seconds / 3600,
        )
        return dataclasses.replace(planner, lost=None)
    asked.reporter.note("Measuring what each weight matters: about {minutes:.1f} minutes.", minutes=seconds / 60)
    windows = costs.windows_of(planner.shape.windows)
    lost = divergence(asked.handle, planner.shape, windows) if planner.steps else 0.0
    took = {level: seconds_to_make(handle, planner.spec("int4", level=level)) for level in asked.spec.levels}
    measured = costs.measure(handle, windows, kept, asked.reporter, planner.fewest_bits, asked.spec.zero_points)
    return dataclasses.replace(planner, lost=lost, costs=measured, seconds=took)


def _dry(asked: Asked, name: str, final: Path, planners: list[Planner]) -> Compressed:
    frontier = frontier_of(planners, [])
    chosen = in_order([p for planner in planners for p in (*planner.mixture(), *planner.ladder())])[0]
    tell(chosen.candidate, asked.goal, asked.reporter)
    plan = make_plan(chosen.shape.handle, chosen.spec)
    planned = Quantized(name, final, plan, chosen.candidate.size_bytes)
    return Compressed(planned, asked.goal, chosen.candidate.size_bytes, chosen.candidate.fits, frontier, chosen.shape.decisions)


def _attempt(asked: Asked, planned: Planned, work: Path, name: str) -> Attempt:
    """Carry a candidate out in a folder of its own, which an interrupted run goes on with."""
    handle, shape, c = asked.handle, planned.shape, planned.candidate
    place = work / c.label
    result = quantize(
        _source(asked, planned, work),
        planned.spec,
        asked.store,
        place,
        distribution=planned.distribution,
        agreed=asked.agreed or asked.spec.time is not None,
        reporter=asked.reporter,
    )
    small = dataclasses.replace(open_model(str(place), asked.store), name=name)
    report = report_card(handle, small, shape, asked.texts, asked.reporter, always=asked.spec.gated)
    if (most := asked.spec.max_accuracy_loss) is not None:
        known = work / f"right-{c.steps if shape.kept is not None else ''}"
        known.mkdir(exist_ok=True)
        report[GATE] = accuracy_gate(handle, small, shape, asked.texts, most, known, asked.reporter)
    return Attempt(planned, result, report, folder_bytes(place))


def _source(asked: Asked, planned: Planned, work: Path) -> ModelHandle:
    """What is rounded: the model, or what its steps leave, in a folder."""
    if not (steps := planned.candidate.steps):
        return asked.handle
    pruned = work / f"{steps}-pruned"
    if not pruned.is_dir():
        write(planned.shape, asked.handle, (), pruned, asked.reporter)
    return open_model(str(pruned), asked.store)


def search_further(
    asked: Asked, planners: list[Planner], best: Attempt, attempts: list[Attempt], work: Path, name: str
) -> tuple[Attempt, list[Attempt]]:
    """The same with one more attempt, where --time leaves a search for it that finds what promises more."""
    spec, goal, passed = asked.spec, asked.goal - REPORT_BYTES, time.monotonic() - asked.started
    took, left = passed / len(attempts), (spec.seconds or 0.0) - passed
    over, missed, _ = best.misses(goal, spec)
    if left < WORTH * took or over or (spec.gated and not missed) or best.planned.spec.qat:
        return best, attempts
    planner, source = next(p for p in planners if p.shape is best.planned.shape), _source(asked, best.planned, work)
    found = search(asked.handle, source, planner, best.planned, asked.texts, asked.store, work, left - took, asked.reporter)
    if found is None:
        return best, attempts
    tell(found.candidate, asked.goal, asked.reporter)
    attempts = [*attempts, _attempt(asked, found, work, name)]
    return min(attempts, key=lambda a: a.misses(goal, spec)), attempts
