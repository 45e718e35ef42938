"""A size to reach, as `--to-bpw` or `--to-size` says it: schemes distributed over the weights by how much each matters.

What was measured is kept where the result is described, in its manifest or in the record of unfinished work, so that the same
again is "up to date", and interrupted work goes on with the schemes that it began with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_cli.errors import UsageError
from deepseek_cli.fields import read_json
from deepseek_cli.handle import ModelHandle
from deepseek_cli.manifest import read_manifest
from deepseek_cli.quantize import sensitivity
from deepseek_cli.quantize.allocate import frontier, solve
from deepseek_cli.quantize.calibration import read_calibration
from deepseek_cli.quantize.method import LONG_SECONDS
from deepseek_cli.quantize.plan import Plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.schemes import Scheme, parse_scheme
from deepseek_cli.spec import format_size
from deepseek_cli.store import RECORD, WORK

CANDIDATES = ((4, 128), (4, 64), (4, 32), (8, 0), (8, 32))  # bits, group
MEASURED = (4, 64)  # from whose divergence the others' follow
TOKENS = 1024  # that divergences are measured on
LENGTH = 256  # of a window of them


def meet_goal(
    handle: ModelHandle, spec: QuantizeSpec, plan: Plan, final: Path, *, force: bool, agreed: bool, reporter: Reporter
) -> Plan:
    """`plan` with the schemes at which the goal of `spec` is met; `final` is where an earlier result may lie.

    Raises UsageError for a goal that cannot be met, and for hours of work that nobody `agreed` to.
    """
    schemes = [candidate(plan.scheme, bits, group) for bits, group in CANDIDATES]
    text = read_calibration(
        open_tokenizer(handle.root), spec.calibration, TOKENS, min(handle.config.context, LENGTH), spec.language
    )
    asked = {
        "name": spec.goal,
        "candidates": [str(scheme) for scheme in schemes],
        "rules": list(spec.rule),
        "text_sha256": text.sha256,
        "tokens": text.windows.numel(),
    }
    record = None if force else _known(final, handle.digest, asked)
    if record is None:
        budget, fixed = _budget(handle, spec, plan, schemes)
        _tell_time(handle, plan, text.windows.numel(), agreed, reporter)
        at = dataclasses.replace(plan.scheme, bits=MEASURED[0], group=MEASURED[1])
        measured = sensitivity.measure(handle, plan.units, text.windows, at, reporter)
        options = [sensitivity.options(handle, unit, schemes) for unit in measured]
        chosen = zip(plan.units, solve(options, budget), strict=True)
        points = [dataclasses.asdict(point) for point in frontier(options, budget, fixed)]
        record = {**asked, "schemes": {unit[0]: str(option.scheme) for unit, option in chosen}, "frontier": points}
    return plan.with_schemes({name: parse_scheme(text) for name, text in record["schemes"].items()}, record)


def candidate(body: Scheme, bits: int, group: int) -> Scheme:
    """A form of the body's scheme; at eight bits there is nothing worth a correction."""
    return dataclasses.replace(body, bits=bits, group=group, rank=body.rank if bits < 8 else 0)


def _budget(handle: ModelHandle, spec: QuantizeSpec, plan: Plan, schemes: Sequence[Scheme]) -> tuple[int, int]:
    """Bytes for all units, and those of all else. Raises UsageError where no distribution comes to so few, or to so many."""
    if not plan.units:
        raise UsageError(
            "{goal}: every weight has its scheme by a rule, or stays dense.", hint="Leave a rule out.", goal=spec.goal
        )
    fixed = fixed_bytes(handle, plan)
    sizes = [[sensitivity.size_of(handle, unit, scheme) for scheme in schemes] for unit in plan.units]
    least, most = fixed + sum(map(min, sizes)), fixed + sum(map(max, sizes))
    budget = int(spec.to_bpw * plan.values / 8) if spec.to_bpw is not None else int(spec.to_size or 0)
    if not least <= budget <= most:
        raise UsageError(
            "{goal} cannot be reached: from {least:.3f} bits per weight ({least_size}) to {most:.3f} ({most_size}) can.",
            hint="Choose a goal between them, or free weights that a rule holds.",
            goal=spec.goal,
            least=8 * least / plan.values,
            least_size=format_size(least),
            most=8 * most / plan.values,
            most_size=format_size(most),
        )
    return budget - fixed, fixed


def fixed_bytes(handle: ModelHandle, plan: Plan) -> int:
    """What all that is in no unit takes."""
    now = {item.name: item.scheme for item in plan.items}
    held = sum(sensitivity.size_of(handle, unit, now[f"{unit[0]}.weight"]) for unit in plan.units)
    return plan.bytes_with(handle.tensors) - held


def _tell_time(handle: ModelHandle, plan: Plan, tokens: int, agreed: bool, reporter: Reporter) -> None:
    seconds = sensitivity.seconds_for(handle, len(plan.units), tokens)
    if seconds > LONG_SECONDS and not agreed:
        raise UsageError(
            "Measuring what each weight matters would take about {hours:.1f} hours.",
            hint="Agree with --yes, or name one scheme for all, such as --scheme int4-g64.",
            hours=seconds / 3600,
        )
    reporter.note(
        "Measuring what each of {units} units matters, on {tokens} tokens: about {minutes:.1f} minutes.",
        units=len(plan.units),
        tokens=tokens,
        minutes=seconds / 60,
    )


def _known(final: Path, digest: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the result at `final`, or unfinished work on it, was distributed, if that was asked for in the same way."""
    manifest = read_manifest(final) if final.is_dir() else None
    work = final.with_name(final.name + WORK) / RECORD
    begun = read_json(work) if work.is_file() else {}
    finished = manifest.steps[-1]["resolved"] if manifest and manifest.steps and manifest.parent == digest else {}
    records = (finished.get("goal"), begun.get("goal") if begun.get("parent") == digest else None)
    return next((record for record in records if record and {**record, **asked} == record), None)
