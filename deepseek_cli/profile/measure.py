"""Measure a model in a process of its own, and put what it reports together as one document, `deepseek.profile/1`.

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
from deepseek_cli.profile.advice import advise
from deepseek_cli.profile.machine import machine
from deepseek_cli.profile.memory import Sampler
from deepseek_cli.profile.parts import beside, moments
from deepseek_cli.profile.spec import ProfileSpec
from deepseek_cli.reporter import SILENT, Reporter

SCHEMA = "deepseek.profile/1"
POINTS = 1500  # of the timeline, at most
# `-P` and these lines instead of `-m`: the folder the user stands in must not lend the child its modules.
BOOT = """
import json, sys
request = json.load(sys.stdin)
sys.path[:] = request["path"]
from deepseek_cli.profile.worker import main
main(request)
"""
PHASES = ("import", "load", "prefill", "decode")


@dataclass
class Run:
    """What one worker reported."""

    started: float
    model: dict[str, Any] = field(default_factory=dict)
    phases: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    error: DeepseekError | None = None
    failed_in: str = ""
    samples: list[tuple[float, int, int]] = field(default_factory=list)


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
) -> tuple[dict[str, Any], DeepseekError | None]:
    """The document, and the error that ended the run early, if one did: the document then holds what was measured until then.

    Raises what opening the model raises: where nothing was measured, there is nothing to show.
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
        "path": sys.path,
    }
    run = run_worker(request, spec.sample_ms / 1000, reporter)
    if run.error and not run.model:
        raise run.error
    traced = None
    if spec.operators and run.model["runtime"] == "ONNX Runtime" and not run.error:
        traced = run_worker({**request, "operators": True}, spec.sample_ms / 1000, reporter, "Profiling operators")
        if traced.error:
            reporter.warn("The second run, with ONNX Runtime's profiler on, failed: {reason}", reason=str(traced.error))
            traced = None
    settings = {
        "command": command,
        "prompt_tokens": spec.prompt_tokens,
        "new_tokens": spec.new_tokens,
        "threads": threads,
        "device": device,
    }
    return document(run, traced, {**settings, "sample_ms": spec.sample_ms}), run.error


def run_worker(request: dict[str, Any], period: float, reporter: Reporter = SILENT, step: str = "Profiling") -> Run:
    """Start a worker, follow it to its end, and give back all that it said."""
    run = Run(time.monotonic())
    reporter.progress(step, 0, len(PHASES), "phases")
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen([sys.executable, "-P", "-c", BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        sampler = Sampler(child.pid, period)
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
            sampler.stop()
            child.kill()
            child.wait()
        run.samples = sampler.samples
        if not run.details and not run.error:
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
            reporter.progress(step, len(run.phases), len(PHASES), "phases")
        case "details":
            run.details = event
        case "error":
            kind = getattr(errors, event["kind"], DeepseekError)
            run.error, run.failed_in = kind(event["message"], hint=event["hint"], **event["facts"]), event["phase"]


def died(code: int, log: str, run: Run) -> DeepseekError:
    """Why a worker ended without a word of its own."""
    run.failed_in = PHASES[min(len(run.phases), len(PHASES) - 1)]
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


def document(run: Run, traced: Run | None, settings: dict[str, Any]) -> dict[str, Any]:
    """All figures of a report: seconds since the process started, bytes, tokens."""
    details = traced.details if traced else run.details
    arena = details.get("arena")
    found = moments(run.phases, arena)
    made = {
        "schema": SCHEMA,
        "failed": failure(run),
        "model": run.model,
        "run": {**settings, "when": datetime.now(UTC).isoformat(timespec="seconds")},
        "machine": machine(),
        "peak": {"phase": found[0]["phase"], "bytes": found[0]["bytes"]} if found else None,
        "phases": [phase_row(p, run.started) for p in run.phases],
        "moments": found,
        "estimate": beside(run.details.get("estimate"), found),
        "weights": details.get("weights", []),
        "kv": {**run.details["kv"], "resident_bytes": run.phases[-1]["kv_resident_bytes"]} if run.details else None,
        "layers": details.get("layers", []),
        "operators": details.get("operators", []),
        "arena": arena,
        "overhead": overhead(run, traced),
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


def overhead(run: Run, traced: Run | None) -> dict[str, float] | None:
    """Seconds of prefill and decode without and with the runtime's profiler: what per-node figures cost."""
    if not traced:
        return None
    plain, profiled = (sum(p["end"] - p["start"] for p in r.phases if p["tokens"]) for r in (run, traced))
    return {"plain_seconds": plain, "profiled_seconds": profiled}


def timeline(run: Run, period_ms: float) -> dict[str, Any]:
    """Points [milliseconds, rss, file-backed] until the last phase ended, thinned so that no peak vanishes."""
    end = run.phases[-1]["end"] if run.phases and not run.error else float("inf")
    kept = [s for s in run.samples if s[0] <= end]
    points = [[round((t - run.started) * 1000, 1), rss, file] for t, rss, file in thin(kept, POINTS)]
    return {"period_ms": period_ms, "samples": len(kept), "points": points}


def thin(samples: list[tuple[float, int, int]], most: int) -> list[tuple[float, int, int]]:
    """At most `most` samples: the lowest and the highest of every bucket, in order of time."""
    if len(samples) <= most:
        return samples
    buckets = most // 2
    kept = []
    for i in range(buckets):
        bucket = samples[i * len(samples) // buckets : (i + 1) * len(samples) // buckets]
        kept += sorted({min(bucket, key=lambda s: s[1]), max(bucket, key=lambda s: s[1])})
    return kept
