"""What a DeepSeekProfiler recorded, as a document `deepseek.profile/2`, the same as of a measured model."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deepseek_cli.errors import DeepseekError
from deepseek_cli.profile.machine import machine
from deepseek_cli.profile.parts import Part
from deepseek_cli.profile.series import thin, trend

if TYPE_CHECKING:
    from deepseek_cli.profile.recorder import DeepSeekProfiler, Phase

SCHEMA = "deepseek.profile/2"
POINTS = 1500  # of the timeline, at most
MOST_TENSORS = 4000
LEAST_STEPS = 5  # for a slope
WARM_UP = 0.2  # of all steps, and two at least: allocators and optimizers still get what they will keep
TOLERATED = 64 << 10  # bytes a step


def document(recorded: DeepSeekProfiler) -> dict[str, Any]:
    phases = [phase_row(p, recorded.started) for p in recorded.phases]
    found = moments(recorded.phases)
    return {
        "schema": SCHEMA,
        "failed": failure(recorded),
        "model": model(recorded),
        "run": {
            "command": recorded.command,
            "prompt_tokens": None,
            "new_tokens": None,
            "threads": None,
            "device": "",
            "sample_ms": recorded.sample_ms,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "machine": machine(),
        "peak": {"phase": found[0]["phase"], "bytes": found[0]["bytes"]},
        "phases": phases,
        "moments": found,
        "estimate": None,
        "weights": weights(recorded),
        "tensors": [row for watched in recorded.watched for row in watched.tensors()][:MOST_TENSORS],
        "kv": None,
        "what_if": None,
        "layers": [row for watched in recorded.watched for row in watched.rows()],
        "operators": [],
        "layer_operators": [],
        "traced": None,
        "nodes": [],
        "arena": None,
        "leak": leak(recorded.steps),
        "overhead": overhead(recorded),
        "advice": [],
        "allocator": recorded.allocator.rows,
        "timeline": timeline(recorded),
    }


def failure(recorded: DeepSeekProfiler) -> dict[str, Any] | None:
    """What came out of the block: one of our errors keeps its code, any other says its kind."""
    if recorded.failed is None:
        return None
    phase, error = recorded.failed
    if isinstance(error, DeepseekError):
        return {"phase": phase, "code": error.code, "message": str(error), "exit_code": error.exit_code}
    return {"phase": phase, "code": type(error).__name__, "message": f"{type(error).__name__}: {error}", "exit_code": 1}


def model(recorded: DeepSeekProfiler) -> dict[str, Any]:
    from deepseek_cli.profile.recorder import runtime_name

    rows = [row for watched in recorded.watched for row in watched.tensors()]
    return {
        "ref": recorded.name,
        "name": recorded.name,
        "kind": "program",
        "runtime": runtime_name(),
        "architecture": ", ".join(type(w.model).__name__ for w in recorded.watched),
        "layers": sum(len(w.layers) for w in recorded.watched),
        "parameters": sum(row["parameters"] for row in rows),
        "active_parameters": sum(row["parameters"] for row in rows),
        "size_bytes": sum(row["bytes"] for row in rows),
        "longest_context": None,
    }


def weights(recorded: DeepSeekProfiler) -> list[dict[str, Any]]:
    """Of watched models, by data type, largest first."""
    forms: dict[str, dict[str, Any]] = {}
    for row in (row for watched in recorded.watched for row in watched.tensors()):
        form = forms.setdefault(row["form"], {"form": row["form"], "tensors": 0, "parameters": 0, "bytes": 0})
        form["tensors"] += 1
        form["parameters"] += row["parameters"]
        form["bytes"] += row["bytes"]
    return sorted(forms.values(), key=lambda form: -form["bytes"])


def phase_row(phase: Phase, started: float) -> dict[str, Any]:
    now = phase.now
    return {
        "phase": phase.name,
        "start_seconds": phase.start - started,
        "seconds": phase.end - phase.start,
        "tokens": 0,
        "tokens_per_second": None,
        "rss_bytes": now.rss,
        "anonymous_bytes": now.anonymous,
        "file_bytes": None if now.anonymous is None else now.rss - now.anonymous,
        "peak_bytes": phase.peak_bytes,
        "peak_reset": phase.peak_reset,
    }


def moments(phases: list[Phase]) -> list[dict[str, Any]]:
    """The peak first, then the end of each phase."""
    found = [{"moment": p.name, "phase": p.name, "bytes": p.now.rss, "parts": p.now.parts} for p in phases]
    highest = max(phases, key=lambda p: p.peak_bytes or p.now.rss)
    if highest.peak_bytes is None:
        return found
    freed: Part = {"part": "transient", "bytes": highest.peak_bytes - highest.now.rss}
    parts = [*highest.now.parts[:-1], freed, highest.now.parts[-1]]
    return [{"moment": "peak", "phase": highest.name, "bytes": highest.peak_bytes, "parts": parts}, *found]


def leak(sizes: list[int]) -> dict[str, Any] | None:
    """Growth a step, without the first steps; None where there are too few to tell."""
    counted = sizes[max(2, int(len(sizes) * WARM_UP)) :]
    if len(counted) < LEAST_STEPS:
        return None
    found = trend(counted)
    first = len(sizes) - len(counted) + 1
    return {
        "iterations": len(counted),
        "slope_bytes": found.slope,
        "low_bytes": found.low,
        "high_bytes": found.high,
        "leaks": found.low > TOLERATED,
        "points": [list(point) for point in thin([(first + i, size) for i, size in enumerate(counted)], 500)],
    }


def overhead(recorded: DeepSeekProfiler) -> dict[str, float | None]:
    """A program runs once: without recording it would have taken what the sampler and the readings did not."""
    seconds = recorded.since - recorded.started
    own = recorded.own_seconds + recorded.sampler.cpu_seconds
    return {"plain_seconds": max(seconds - own, 0.0), "sampled_seconds": seconds, "profiled_seconds": None}


def timeline(recorded: DeepSeekProfiler) -> dict[str, Any]:
    samples = recorded.sampler.samples
    points = [[round((t - recorded.started) * 1000, 1), rss, file] for t, rss, file in thin(samples, POINTS)]
    return {"period_ms": recorded.sample_ms, "samples": len(samples), "points": points}
