"""Measure several models in turn, each in a process of its own, and compare each with the first.

Rounds are interleaved over the arms, in alternating order (A B, B A, …), so that a machine that slows down
slows all arms down alike. An arm that fails is reported with its error; the others go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_cli.bench import gates, roofline
from deepseek_cli.bench.arms import Arm, ask, name_apart, started
from deepseek_cli.bench.environment import environment, load_average, physical_cores
from deepseek_cli.bench.quality import quality_of
from deepseek_cli.bench.record import document
from deepseek_cli.bench.spec import BenchSpec
from deepseek_cli.bench.starts import files_of, start_in_turn
from deepseek_cli.errors import DeepseekError, UsageError
from deepseek_cli.reporter import SILENT, Reporter


def bench(
    refs: Sequence[str],
    spec: BenchSpec,
    *,
    home: Path,
    context: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    seed: int = 0,
    most: int | None = None,
    reporter: Reporter = SILENT,
) -> tuple[dict[str, Any], DeepseekError | None]:
    """The document `deepseek.bench/2`, and the error of the first arm that failed, if one did. With `most` each bundle is
    measured again by the plan that is to keep it within so many bytes.

    Raises UsageError for settings that cannot be measured or a baseline that cannot be compared with, and the error itself where
    every arm failed.
    """
    settings = check(spec, context, threads) | {"device": device, "seed": seed, "sparse_attention": spec.sparse_attention}
    baseline = gates.read_baseline(spec.baseline, settings, environment()) if spec.baseline else None
    kinds: list[dict[str, Any]] = [{}]
    kinds += [{"sparse": spec.sparse_attention}] if spec.sparse_attention else []
    kinds += [{"fast_prefill": True}] if spec.fast_prefill else []
    kinds += [{"most": most}] if most else []
    plans = [{**settings, "home": str(home), "ref": ref, **kind} for ref in refs for kind in kinds]
    found, arms = measured(plans, spec, settings, baseline, reporter)
    if baseline or spec.slowdown is not None:
        checks = gates.judge(found, baseline, spec.slowdown)
        if any(check.verdict == gates.SLOWER for check in checks):
            reporter.note("Something is slower: all is measured once more, to be sure.")
            again, _ = measured(plans, spec, settings, baseline, reporter)
            found["second_pass"] = [{"name": arm["name"], "metrics": arm["metrics"]} for arm in again["arms"]]
            checks = gates.confirmed(checks, gates.judge(again, baseline, spec.slowdown))
        found["gates"] = checks
    if spec.quality:
        for done, (arm, record) in enumerate(zip(arms, found["arms"], strict=True)):
            reporter.progress("Quality", done, len(arms))
            quality_of(arm, record, {**settings, "home": str(home)})
        reporter.progress("Quality", len(arms), len(arms))
    return found, next((arm.error for arm in arms if arm.error), None)


def check(spec: BenchSpec, context: int | None, threads: int | None) -> dict[str, Any]:
    """What every worker is told. Raises UsageError for more threads than cores, or a context that is too short."""
    cores = environment()["cores"]
    if threads is not None and not 1 <= threads <= cores:
        raise UsageError(
            "--threads {threads}: this machine has {cores} cores.", hint="Use 1 to {cores}.", threads=threads, cores=cores
        )
    if context and context < spec.longest:
        raise UsageError(
            "--context {context} is too short for {needed} tokens.",
            hint="Leave it out, or measure fewer.",
            context=context,
            needed=spec.longest,
        )
    return {
        "prompt_tokens": list(spec.prompts),
        "new_tokens": list(spec.news),
        "depths": list(spec.depths),
        "context": context or spec.longest,
        "threads": threads or physical_cores(),
        "packed_cache": spec.packed_cache,
    }


def measured(
    plans: Sequence[Mapping[str, Any]],
    spec: BenchSpec,
    settings: dict[str, Any],
    baseline: Mapping[str, Any] | None,
    reporter: Reporter,
) -> tuple[dict[str, Any], list[Arm]]:
    """One whole pass over the arms. Raises UsageError where `baseline` knows none of them, and their error where all failed."""
    before = load_average()
    roof = roofline.measured(settings["threads"], reporter) if spec.roofline else None
    files = [files_of(plan["ref"], Path(plan["home"])) for plan in plans]
    starts = start_in_turn(plans, files, spec.starts, reporter)
    with contextlib.ExitStack() as stack:
        arms = [stack.enter_context(started(plan["ref"], dict(plan))) for plan in plans]
        for arm, (samples, missing) in zip(arms, starts, strict=True):
            arm.starts, arm.missing = samples, missing
            arm.about = ask(arm, {"do": "identify"})
        name_apart(arms)
        if baseline:
            gates.require_known(arms, baseline, reporter)
        measure(arms, spec.rounds, reporter)
        for arm in arms:
            arm.about |= ask(arm, {"do": "about"})
    failed = [arm.error for arm in arms if arm.error]
    if len(failed) == len(arms):
        raise failed[0]
    for arm in arms:
        if arm.error:
            reporter.warn("{model}: {reason}", model=arm.name, reason=str(arm.error))
    return document(arms, settings | {"rounds": spec.rounds}, before, roof), arms


def measure(arms: Sequence[Arm], rounds: int, reporter: Reporter) -> None:
    """Warm every arm up, then give each its turn in every round."""
    for arm in arms:
        arm.warmed = ask(arm, {"do": "warm-up"})
        if not arm.warmed.get("stable", True):
            reporter.warn(
                "{model} did not settle in {count} warm-up rounds: its figures are noisy.",
                model=arm.name,
                count=len(arm.warmed["seconds"]),
            )
    for index in range(rounds):
        for arm in arms if index % 2 == 0 else reversed(arms):
            if answer := ask(arm, {"do": "round"}):
                arm.rounds.append(answer)
        reporter.progress("Measuring", index + 1, rounds, "rounds")
