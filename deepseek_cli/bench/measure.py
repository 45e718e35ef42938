"""Measure several models in turn, each in a process of its own, and compare each with the first.

Rounds are interleaved over the arms, in alternating order (A B, B A, …), so that a machine that slows down
slows all arms down alike. An arm that fails is reported with its error; the others go on.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from deepseek_cli import errors
from deepseek_cli.bench.environment import environment, load_average, physical_cores
from deepseek_cli.bench.metrics import METRICS, paired_ratio, summary
from deepseek_cli.bench.spec import BenchSpec
from deepseek_cli.errors import DeepseekError, MemoryShort, UsageError
from deepseek_cli.reporter import SILENT, Reporter

SCHEMA = "deepseek.bench/1"
# `-P` and this program instead of `-m`: the folder the user stands in must not lend the worker its modules.
BOOT = """
import json, sys
settings = json.loads(sys.stdin.readline())
sys.path[:] = settings["path"]
from deepseek_cli.bench.worker import main
main(settings)
"""


@dataclass
class Arm:
    """A worker process and what it answered."""

    ref: str
    process: subprocess.Popen
    log: IO[bytes]
    ready: dict[str, Any] = field(default_factory=dict)
    warmed: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    error: DeepseekError | None = None
    number: int = 0  # among arms of the same name, where there are several

    @property
    def name(self) -> str:
        name = self.ready.get("name", self.ref)
        return f"{name} #{self.number}" if self.number else name


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
    """The document `deepseek.bench/1`, and the error of the first arm that failed, if one did. With `most` each bundle is
    measured again by the plan that is to keep it within so many bytes.

    Raises UsageError for settings that cannot be measured, and the error itself where every arm failed.
    """
    settings = check(spec, context, threads) | {"device": device, "seed": seed}
    before = load_average()
    with contextlib.ExitStack() as stack:
        shared = {**settings, "home": str(home), "path": sys.path}
        kinds: list[dict[str, Any]] = [{}]
        kinds += [{"sparse": spec.sparse_attention}] if spec.sparse_attention else []
        kinds += [{"fast_prefill": True}] if spec.fast_prefill else []
        kinds += [{"most": most}] if most else []
        arms = [stack.enter_context(started(ref, {**shared, "ref": ref, **kind})) for ref in refs for kind in kinds]
        measure(arms, spec.rounds, reporter)
    name_apart(arms)
    failed = [arm.error for arm in arms if arm.error]
    if len(failed) == len(arms):
        raise failed[0]
    for arm in arms:
        if arm.error:
            reporter.warn("{model}: {reason}", model=arm.name, reason=str(arm.error))
    return document(arms, settings | {"rounds": spec.rounds, "sparse_attention": spec.sparse_attention}, before), failed[
        0
    ] if failed else None


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
        "prompt_tokens": spec.prompt_tokens,
        "new_tokens": spec.new_tokens,
        "depths": list(spec.depths),
        "context": context or spec.longest,
        "threads": threads or physical_cores(),
        "packed_cache": spec.packed_cache,
    }


@contextlib.contextmanager
def started(ref: str, settings: dict[str, Any], command: Sequence[str] = ()) -> Iterator[Arm]:
    """An arm whose worker loads its model; the worker ends with the block. Another `command` may speak worker.py's language."""
    with tempfile.TemporaryFile() as log:
        words = command or [sys.executable, "-P", "-c", BOOT]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        arm = Arm(ref, process, log)
        try:
            arm.ready = ask(arm, settings)
            yield arm
        finally:
            process.kill()
            process.communicate()


def ask(arm: Arm, request: dict[str, Any]) -> dict[str, Any]:
    """Send one line, wait for one; {} and `arm.error` where the worker fails."""
    assert arm.process.stdin and arm.process.stdout
    if arm.error:
        return {}
    with contextlib.suppress(BrokenPipeError):
        arm.process.stdin.write(json.dumps(request).encode() + b"\n")
        arm.process.stdin.flush()
    line = arm.process.stdout.readline()
    answer = json.loads(line) if line else {}
    if not answer:
        arm.error = died(arm)
    elif answer.pop("event") == "error":
        kind = getattr(errors, answer["kind"], DeepseekError)
        arm.error = kind(answer["message"], hint=answer["hint"], **answer["facts"])
    return {} if arm.error else answer


def died(arm: Arm) -> DeepseekError:
    """Why a worker ended without a word of its own."""
    code = arm.process.wait()
    if code < 0:
        return MemoryShort(
            "The process that measured {model} was killed (signal {signal}).",
            hint="Most often that means that memory ran out.",
            model=arm.name,
            signal=-code,
        )
    arm.log.seek(0)
    lines = arm.log.read().decode(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else "it left no message"
    return DeepseekError(
        "The process that measured {model} failed: {reason}", hint="Please report this.", model=arm.name, reason=reason
    )


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


def name_apart(arms: Sequence[Arm]) -> None:
    """Number the arms whose names are equal, such as a model measured against itself."""
    names = [arm.name for arm in arms]
    for index, arm in enumerate(arms):
        if names.count(names[index]) > 1:
            arm.number = names[:index].count(names[index]) + 1


def document(arms: Sequence[Arm], settings: dict[str, Any], load_before: list[float] | None) -> dict[str, Any]:
    """All figures, in the units of METRICS; ratios are to the first arm."""
    return {
        "schema": SCHEMA,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "environment": {
            **environment(),
            "threads": settings["threads"],
            "load_before": load_before,
            "load_after": load_average(),
        },
        "metrics": {name: {"unit": unit, "formula": formula} for name, (unit, formula) in METRICS.items()},
        "arms": [arm_record(arm, arms[0]) for arm in arms],
    }


def arm_record(arm: Arm, first: Arm) -> dict[str, Any]:
    samples, others = samples_of(arm), samples_of(first)
    shared = [name for name in samples if name in others and arm is not first]
    return {
        "ref": arm.ref,
        "name": arm.name,
        **{key: arm.ready.get(key) for key in ("kind", "bytes", "quantization", "memory_plan")},
        "error": arm.error and {"code": arm.error.code, "message": str(arm.error), "exit_code": arm.error.exit_code},
        "warm_up": arm.warmed or None,
        "metrics": {name: summary(values) for name, values in samples.items()},
        "missing": arm.rounds[0]["missing"] if arm.rounds else {},
        "ratios": {name: paired_ratio(samples[name], others[name]) for name in shared},
    }


def samples_of(arm: Arm) -> dict[str, list[float]]:
    """Samples by metric, one a round; `load` has one, as a process loads once. What the system does not tell is left out."""
    loads = {"load": [arm.ready["load"]]} if arm.ready else {}
    known = [name for name, value in arm.rounds[0]["values"].items() if value is not None] if arm.rounds else []
    return loads | {name: [r["values"][name] for r in arm.rounds] for name in known}
