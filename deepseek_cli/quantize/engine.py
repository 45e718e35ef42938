"""`quantize` from handle to handle: plan, write, measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import UsageError
from deepseek_cli.evaluate import TEXTS, WINDOW, check_vocabulary, cut_windows, evaluate_handle
from deepseek_cli.evaluate import seconds_for as evaluation_seconds
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.manifest import Manifest, read_manifest, write_manifest
from deepseek_cli.memory import free_bytes
from deepseek_cli.quantize.distill import needed_bytes
from deepseek_cli.quantize.folder import Written, resolved_record, write
from deepseek_cli.quantize.goal import meet_goal
from deepseek_cli.quantize.method import LONG_SECONDS, Method, resolve, seconds_for
from deepseek_cli.quantize.plan import Item, Plan, make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.quantize.spread import LOCAL, Engine
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.schemes import parse_scheme, pattern_of
from deepseek_cli.store import Store, result_name

REPORT_SECONDS = 120  # a report card that would take longer is left to `deepseek eval`
REPORT_WINDOWS = 8  # of each text


@dataclass(frozen=True, slots=True)
class Quantized:
    """`manifest` is None under `dry_run`; `unchanged` means the same result was there already."""

    name: str
    path: Path
    plan: Plan
    size_bytes: int  # of all tensors
    manifest: Manifest | None = None
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)  # by tensor, see `rounding.Note`
    unchanged: bool = False

    @property
    def frontier(self) -> list[dict[str, Any]]:
        """What other sizes would come to, as plain values; empty where no goal chose the schemes."""
        points = self.plan.goal.get("frontier", ())
        return [{"bits_per_weight": 8 * point["size_bytes"] / self.plan.values, **point} for point in points]


def quantize(
    handle: ModelHandle,
    spec: QuantizeSpec,
    store: Store,
    output: Path | None = None,
    *,
    label: str = "",
    distribution: Mapping[str, Any] | None = None,
    force: bool = False,
    dry_run: bool = False,
    agreed: bool = False,
    reporter: Reporter = SILENT,
    engine: Engine = LOCAL,
) -> Quantized:
    """Write `handle` with quantized weights, into `output` or the store; `label` stands for the level in its name.

    A `distribution` names the schemes of all units, under `schemes`, as `meet_goal` would have found them.

    The `engine` says where weights are rounded; no result depends on it, and none records it.

    Raises what `make_plan`, `meet_goal`, `resolve`, `folder.write` and the engine raise, and UsageError for hours of work
    that nobody `agreed` to.
    """
    plan = make_plan(handle, spec)
    method = resolve(handle, spec, plan, reporter)  # before a goal is measured, so that what is wrong is said first
    scheme = spec.goal or (distribution["name"] if distribution else str(plan.scheme))
    name = result_name(handle.name, scheme, label or ("" if plan.scheme.bits == 16 else spec.way))
    final = output or store.models / name
    if spec.goal:
        plan = meet_goal(handle, spec, plan, final, force=force, agreed=agreed, reporter=reporter)
        method = resolve(handle, spec, plan, reporter)
    elif distribution:
        plan = plan.with_schemes({unit: parse_scheme(text) for unit, text in distribution["schemes"].items()}, distribution)
        method = resolve(handle, spec, plan, reporter)
    size = plan.bytes_with(handle.tensors)
    _tell(handle, plan, scheme, size, reporter)
    seconds = _tell_time(handle, method, reporter)
    if dry_run:
        return Quantized(name, final, plan, size)
    if not force and (known := unchanged(final, "quantize", resolved_record(spec, plan, method), handle)):
        manifest = _with_report(handle, spec, known, final, store, reporter)
        return Quantized(name, final, plan, size, manifest, unchanged=True)
    if seconds > LONG_SECONDS and not agreed:
        raise UsageError(
            "This would take about {hours:.1f} hours.",
            hint="Agree with --yes, or use --level fast, or --algorithm rtn, which looks at no text.",
            hours=seconds / 3600,
        )
    with engine.started(reporter) as started:
        written = write(handle, spec, plan, method, name, final, force, reporter, started)
    _tell_unmet(method, written, reporter)
    manifest = _with_report(handle, spec, written.manifest, final, store, reporter)
    return Quantized(name, final, plan, size, manifest, dict(written.errors), dict(written.notes))


def _with_report(
    handle: ModelHandle, spec: QuantizeSpec, manifest: Manifest, final: Path, store: Store, reporter: Reporter
) -> Manifest:
    """The manifest with its report card, measured where it is wanted and missing: a run may have been stopped before it."""
    if not spec.report or manifest.report:
        return manifest
    manifest = dataclasses.replace(manifest, report=measure(handle, open_model(str(final), store), reporter))
    write_manifest(final, manifest)
    return manifest


def _tell_time(handle: ModelHandle, method: Method, reporter: Reporter) -> float:
    """How long calibration will take, in seconds; said where there is any."""
    seconds = seconds_for(handle, method)
    if method.calibration:
        reporter.note(
            "{algorithm} on {tokens} tokens of {text}: about {minutes:.1f} minutes.",
            algorithm=method.algorithm.name,
            tokens=method.calibration.windows.numel(),
            text=method.calibration.name,
            minutes=seconds / 60,
        )
    if method.steps:
        reporter.note(
            "{steps} steps of distillation are in that; they need {needed} MB of memory, and {free} MB are free.",
            steps=method.steps,
            needed=needed_bytes(handle, method) // 1_000_000,
            free=free_bytes() // 1_000_000,
        )
    return seconds


def _tell_unmet(method: Method, written: Written, reporter: Reporter) -> None:
    """What calibration should have met is never skipped in silence."""
    for item in method.calibrated:
        if item.name not in written.notes:
            reporter.warn("{tensor} was not met by calibration; it is rounded by itself.", tensor=item.name)


def _tell(handle: ModelHandle, plan: Plan, scheme: str, size: int, reporter: Reporter) -> None:
    sources = [handle.tensors[item.name] for item in plan.items]
    reporter.note(
        "{name}: {before} MB to {scheme}, {after} MB ({bpw:.2f} bits per weight).",
        name=handle.name,
        before=round(sum(ref.size_bytes for ref in sources) / 1e6),
        scheme=scheme,
        after=round(size / 1e6),
        bpw=8 * size / plan.values,
    )
    if any(ref.quantized for ref in sources):
        reporter.note("{name} is quantized already; this works from its dequantized values.", name=handle.name)
    for tensor, reason in _alike(plan.fallbacks):
        reporter.warn("{tensor} stays dense: {reason}.", tensor=tensor, reason=reason)
    for format in dict.fromkeys(str(item.scheme) for item in plan.items if item.instead):
        others = [item for item in plan.items if item.instead and str(item.scheme) == format]
        for tensor, reason in _alike(others):
            reporter.warn("{tensor} becomes {format}: {reason}.", tensor=tensor, format=format, reason=reason)


def _alike(fallbacks: list[Item]) -> list[tuple[str, str]]:
    """Names and reasons; where several layers or experts have the same name and reason, one pattern stands for all."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in fallbacks:
        groups.setdefault((pattern_of(item.name), pattern_of(item.reason or item.instead)), []).append(item)
    return [
        (pattern, reason) if len(items) > 1 else (items[0].name, items[0].reason or items[0].instead)
        for (pattern, reason), items in groups.items()
    ]


def unchanged(final: Path, command: str, resolved: dict[str, Any], handle: ModelHandle) -> Manifest | None:
    """The manifest at `final`, if it is the complete result of the same command, options and input."""
    known = read_manifest(final) if final.is_dir() else None
    if not known or not known.steps or known.parent != handle.digest:
        return None
    same = known.steps[-1]["command"] == command and known.steps[-1]["resolved"] == resolved
    complete = all((final / f["path"]).is_file() and (final / f["path"]).stat().st_size == f["bytes"] for f in known.files)
    return known if same and complete else None


def measure(reference: ModelHandle, candidate: ModelHandle, reporter: Reporter = SILENT) -> dict[str, Any]:
    """The report card, or its reason for being empty."""
    check_vocabulary((reference.config.vocabulary, candidate.config.vocabulary))
    seconds = evaluation_seconds(reference, 2 * len(TEXTS) * REPORT_WINDOWS * WINDOW)
    body = {"bits_per_weight": 8 * candidate.size_bytes / candidate.parameters, "size_bytes": candidate.size_bytes}
    if seconds > REPORT_SECONDS:
        reporter.note(
            "Measuring quality would take about {minutes:.0f} minutes: deepseek eval {name}",
            minutes=seconds / 60,
            name=candidate.name,
        )
        return {**body, "unmeasured": f"estimated at {seconds:.0f} s"}
    windows = cut_windows(open_tokenizer(reference.root), most=REPORT_WINDOWS)
    return {**body, "against": reference.name, **evaluate_handle(reference, candidate, windows, reporter)}
