"""Measure a model in a process of its own, and put what it reports together as one document, `deepseek.profile/2`.

The child is watched from outside, so that the timeline costs it nothing, and so that a run that dies leaves all it had shown.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepseek_cli import errors
from deepseek_cli.errors import DeepseekError, MemoryShort
from deepseek_cli.handle import target_of
from deepseek_cli.i18n import t
from deepseek_cli.profile.advice import advise
from deepseek_cli.profile.machine import machine
from deepseek_cli.profile.memory import Sampler
from deepseek_cli.profile.parts import beside, moments
from deepseek_cli.profile.series import thin
from deepseek_cli.profile.spec import ProfileSpec
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.sources import locate
from deepseek_cli.store import Store

SCHEMA = "deepseek.profile/2"
POINTS = 1500  # of the timeline, at most
# `-P` and these lines instead of `-m`: the folder the user stands in must not lend the child its modules.
BOOT = """
import json, sys
request = json.load(sys.stdin)
sys.path[:] = request["path"]
from deepseek_cli.profile.worker import main
main(request)
"""
PHASES = ("import", "load", "prepack", "prefill", "decode")
TRACED_SHARE = 0.05  # of the time of prefill and decode that nodes are looked at while decoding
PACKING = "cpu"  # the target whose runtime packs weights, as a phase of its own


@dataclass
class Run:
    """What one worker reported."""

    started: float
    packs: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    phases: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    leak: dict[str, Any] | None = None
    finished: bool = False
    error: DeepseekError | None = None
    failed_in: str = ""
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    sampling_seconds: float = 0.0


def profile(
    ref: str,
    spec: ProfileSpec,
    *,
    home: Path,
    context: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    command: str = "",
    reporter: Reporter = SILENT,
    nodes: list[dict[str, Any]] | None = None,
) -> tuple[dict[str, Any], DeepseekError | None]:
    """The document, and the error that ended the run early, if one did: the document then holds what was measured until then.

    What ONNX Runtime's profiler says of each node that ran is put into `nodes`, for a trace. Raises what opening the model
    raises: where nothing was measured, there is nothing to show.
    """
    request = {
        "ref": ref,
        "home": str(home),
        "context": context,
        "threads": threads,
        "device": device,
        "prompt_tokens": spec.prompt_tokens,
        "new_tokens": spec.new_tokens,
        "operators": False,
        "activations": False,
        "plain": False,
        "leak": 0,
        "events": nodes is not None,
        "packs": packs(ref, home),
        "path": sys.path,
    }
    period = spec.sample_ms / 1000
    run = run_worker({**request, "leak": spec.leak or 0, "activations": spec.operators}, period, reporter)
    if run.error and not run.model:
        raise run.error
    traced = plain = None
    if not run.error and spec.operators and run.packs:
        budget = TRACED_SHARE * computing(run)
        traced = second_run({**request, "operators": True, "trace_seconds": budget}, period, reporter, "Profiling operators")
    if not run.error and spec.overhead:
        plain = second_run({**request, "plain": True}, None, reporter, "Running unwatched")
    if traced and nodes is not None:
        nodes += aligned(traced)
    settings = {
        "command": command,
        "prompt_tokens": spec.prompt_tokens,
        "new_tokens": spec.new_tokens,
        "threads": threads,
        "device": device,
    }
    return document(run, traced, {**settings, "sample_ms": spec.sample_ms}, plain), run.error


def second_run(request: dict[str, Any], period: float | None, reporter: Reporter, step: str) -> Run | None:
    """The same work in a fresh process, watched more closely or not at all; None, and a warning, where that fails."""
    run = run_worker(request, period, reporter, step)
    if not run.error:
        return run
    reporter.warn("{step}: that run failed: {reason}", step=t(step), reason=str(run.error))
    return None


def aligned(traced: Run) -> list[dict[str, Any]]:
    """The nodes that ran, on the clock of their process: the first pass begins where prefill does."""
    zero = next(p["start"] - traced.started for p in traced.phases if p["name"] == "prefill")
    return [{**event, "ts": event["ts"] + zero * 1e6} for event in traced.details["events"]]


def run_worker(request: dict[str, Any], period: float | None, reporter: Reporter = SILENT, step: str = "Profiling") -> Run:
    """Start a worker, follow it to its end, and give back all that it said. Its memory is read every `period` seconds."""
    run = Run(time.monotonic(), bool(request["packs"]))
    reporter.progress(step, 0, len(phases_of(run)), "phases")
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen([sys.executable, "-P", "-c", BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        sampler = Sampler(child.pid, period) if period else None
        if sampler:
            sampler.start()
        try:
            assert child.stdin and child.stdout
            with contextlib.suppress(BrokenPipeError), child.stdin as stdin:
                stdin.write(json.dumps({**request, "started": run.started}).encode())
            with child.stdout as stdout:
                for line in stdout:
                    if line.endswith(b"\n"):  # a process that is killed may leave half a line
                        take(run, json.loads(line), reporter, step)
            child.wait()
        finally:
            if sampler:
                sampler.stop()
            child.kill()
            child.wait()
        if sampler:
            run.samples, run.sampling_seconds = sampler.samples, sampler.cpu_seconds
        if not run.finished and not run.error:
            log.seek(0)
            run.error = died(child.returncode, log.read().decode(errors="replace"), run)
    return run


def take(run: Run, event: dict[str, Any], reporter: Reporter, step: str) -> None:
    """One line of the worker's."""
    match event.pop("event"):
        case "model":
            run.model = event
        case "phase":
            run.phases.append(event)
            reporter.progress(step, len(run.phases), len(phases_of(run)), "phases")
        case "details":
            run.details = event
        case "leak":
            run.leak = event
        case "end":
            run.finished = True
        case "error":
            kind = getattr(errors, event["kind"], DeepseekError)
            run.error, run.failed_in = kind(event["message"], hint=event["hint"], **event["facts"]), event["phase"]


def packs(ref: str, home: Path) -> bool:
    """Whether what `ref` names runs where packing weights is a phase. Raises ModelNotFound."""
    return target_of(locate(ref, Store(home)).manifest) == PACKING


def expected(packs: bool) -> tuple[str, ...]:
    return tuple(name for name in PHASES if name != "prepack" or packs)


def phases_of(run: Run) -> tuple[str, ...]:
    """Those to expect: packing where the runtime is one that packs, unless it was over before anything told it from loading."""
    done = {phase["name"] for phase in run.phases}
    return expected("prepack" in done or (run.packs and "prefill" not in done))


def died(code: int, log: str, run: Run) -> DeepseekError:
    """Why a worker ended without a word of its own."""
    run.failed_in = next((name for name in phases_of(run) if name not in {p["name"] for p in run.phases}), "leak test")
    if code < 0:
        return MemoryShort(
            "The measured process was killed during {phase} (signal {signal}).",
            hint="Most often that means that memory ran out.",
            phase=run.failed_in,
            signal=-code,
        )
    last = log.strip().splitlines()[-1] if log.strip() else "it left no message"
    return DeepseekError(
        "The measured process failed during {phase}: {reason}", hint="Please report this.", phase=run.failed_in, reason=last
    )


def document(run: Run, traced: Run | None, settings: dict[str, Any], plain: Run | None = None) -> dict[str, Any]:
    """All figures of a report: seconds since the process started, bytes, tokens."""
    details = traced.details if traced else run.details
    arena = details.get("arena")
    found = moments(run.phases, arena)
    made = {
        "schema": SCHEMA,
        "failed": failure(run),
        "model": {**run.model, **run.details.get("model", {"parameters": None, "active_parameters": None})},
        "run": {**settings, "when": datetime.now(UTC).isoformat(timespec="seconds")},
        "machine": machine(),
        "peak": {"phase": found[0]["phase"], "bytes": found[0]["bytes"]} if found else None,
        "phases": [phase_row(p, run.started) for p in run.phases],
        "moments": found,
        "estimate": beside(run.details.get("estimate"), found),
        "weights": details.get("weights", []),
        "tensors": details.get("tensors", []),
        "kv": {**run.details["kv"], "resident_bytes": run.phases[-1]["kv_resident_bytes"]} if run.details else None,
        "layers": details.get("layers", []),
        "operators": details.get("operators", []),
        "layer_operators": details.get("layer_operators", []),
        "traced": details.get("traced"),
        "nodes": details.get("nodes", []),
        "arena": arena,
        "leak": run.leak,
        "overhead": overhead(run, traced, plain),
        "timeline": timeline(run, settings["sample_ms"]),
        "what_if": run.details.get("what_if"),
    }
    return {**made, "advice": advise(made)}


def failure(run: Run) -> dict[str, Any] | None:
    error = run.error
    return {"phase": run.failed_in, "code": error.code, "message": str(error), "exit_code": error.exit_code} if error else None


def phase_row(phase: dict[str, Any], started: float) -> dict[str, Any]:
    seconds = phase["end"] - phase["start"]
    files = None if phase["anonymous_bytes"] is None else phase["rss_bytes"] - phase["anonymous_bytes"]
    return {
        "phase": phase["name"],
        "start_seconds": phase["start"] - started,
        "seconds": seconds,
        "tokens": phase["tokens"],
        "tokens_per_second": phase["tokens"] / seconds if phase["tokens"] and seconds else None,
        "rss_bytes": phase["rss_bytes"],
        "anonymous_bytes": phase["anonymous_bytes"],
        "file_bytes": files,
        "peak_bytes": phase["peak_bytes"],
        "peak_reset": phase["peak_reset"],
    }


def overhead(run: Run, traced: Run | None, plain: Run | None) -> dict[str, float | None] | None:
    """Seconds of prefill and decode, and of processor time meanwhile: unwatched, sampled, and with the runtime's profiler, which
    then writes its file; that is left out. None without the first. The sampler's own time is that of the whole run."""
    if not plain:
        return None
    writing = traced.details["traced"] if traced else {}
    return {
        "plain_seconds": computing(plain),
        "plain_cpu_seconds": processing(plain),
        "sampled_seconds": computing(run),
        "sampled_cpu_seconds": processing(run),
        "sampling_cpu_seconds": run.sampling_seconds,
        "sampling_seconds": run.phases[-1]["end"] - run.started,
        "profiled_seconds": computing(traced) - writing["writing_seconds"] if traced else None,
        "profiled_cpu_seconds": processing(traced) - writing["writing_cpu_seconds"] if traced else None,
    }


def computing(run: Run) -> float:
    """Seconds of prefill and decode."""
    return float(sum(p["end"] - p["start"] for p in run.phases if p["tokens"]))


def processing(run: Run) -> float:
    """Seconds of processor time that the worker took meanwhile, on all its threads."""
    return float(sum(p["cpu_seconds"] for p in run.phases if p["tokens"]))


def timeline(run: Run, period_ms: float) -> dict[str, Any]:
    """Points [milliseconds, rss, file-backed] until the last phase ended, thinned so that no peak vanishes."""
    end = run.phases[-1]["end"] if run.phases and not run.error else float("inf")
    kept = [s for s in run.samples if s[0] <= end]
    points = [[round((t - run.started) * 1000, 1), rss, file] for t, rss, file in thin(kept, POINTS)]
    return {"period_ms": period_ms, "samples": len(kept), "points": points}
