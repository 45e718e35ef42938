"""What resident memory is made of. The parts of a moment always sum to what the system reports for it, exactly.

A part is only what a counter gives: a named mapping, the pages of a known buffer, the runtime's own allocator. The rest is
`unattributed`: shown, never spread. It is negative where two counters see the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = {
    "weights_mapped": "weights, mapped from the file",
    "weights_memory": "weights, copied into memory",
    "kv": "KV cache",
    "activations": "activations and workspace",
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "buffers": "buffers",
    "other_tensors": "activations and other tensors",
    "logits": "logits",
    "runtime_files": "libraries and code, mapped",
    "python": "Python's own objects",
    "runtime_heap": "Python and libraries' heap",
    "heap_free": "freed, kept by the allocator",
    "other_processes": "processes that it started",
    "transient": "in use at the peak, freed since",
    "unattributed": "unattributed",
}
ESTIMATED = {  # what an estimate tells apart
    "weights": "weights",
    "kv": "KV cache",
    "activations": "activations and the rest",
    "runtime": "runtime",
    "peak": "peak",
}
Part = dict[str, Any]  # {"part": a key of PARTS, "bytes": int}


def moments(phases: list[dict[str, Any]], arena: Mapping[str, int] | None) -> list[dict[str, Any]]:
    """The peak first, then the end of each phase: {"moment", "phase", "bytes", "parts"}.

    `phases` are the worker's records; `arena` is ONNX Runtime's allocator (see `operators`), or None.
    """
    if not phases:
        return []
    base = phases[0]
    found = [_moment(p["name"], p["name"], p["rss_bytes"], parts_at(p, base, arena)) for p in phases]
    highest = max(range(len(phases)), key=lambda i: phases[i]["peak_bytes"] or 0)
    phase, at_end = phases[highest], found[highest]
    if phase["peak_bytes"] is None:
        return found
    freed = {"part": "transient", "bytes": phase["peak_bytes"] - phase["rss_bytes"]}
    return [_moment("peak", phase["name"], phase["peak_bytes"], [*at_end["parts"][:-1], freed, at_end["parts"][-1]]), *found]


def parts_at(phase: Mapping[str, Any], base: Mapping[str, Any], arena: Mapping[str, int] | None) -> list[Part]:
    """The parts at the end of `phase`; `base` is the import phase, whose anonymous memory is Python's and the libraries'."""
    loaded, ran = phase["name"] != base["name"], phase["tokens"] > 0
    held = arena or {"weights_bytes": 0, "activations_bytes": 0}
    heap = base["anonymous_bytes"] if base["anonymous_bytes"] is not None else base["rss_bytes"]
    known = {
        "weights_mapped": phase["model_file_bytes"] or 0,
        "weights_memory": (phase["weights_memory_bytes"] or held["weights_bytes"]) if loaded else 0,
        "kv": phase["kv_resident_bytes"],
        "activations": held["activations_bytes"] if ran else 0,
        "logits": phase["logits_bytes"],
        "runtime_files": phase["other_file_bytes"] or 0,
        "runtime_heap": heap - base["heap_free_bytes"],
        "heap_free": phase["heap_free_bytes"],
    }
    return [
        *({"part": k, "bytes": v} for k, v in known.items()),
        {"part": "unattributed", "bytes": phase["rss_bytes"] - sum(known.values())},
    ]


def beside(estimate: Mapping[str, Any] | None, measured: list[dict[str, Any]]) -> dict[str, Any] | None:
    """An estimate's parts with what was measured of each, and the error as a share of it; None without both.

    Weights, cache and libraries are those at the end of the run, the peak is that of the whole run, and the rest lies between.
    """
    if not estimate or not measured or measured[0]["moment"] != "peak":
        return None
    found = {part["part"]: part["bytes"] for part in measured[-1]["parts"]}
    sizes = {part["part"]: part["bytes"] for part in estimate["parts"]}
    seen = {
        "weights": found["weights_mapped"] + found["weights_memory"],
        "kv": found["kv"],
        "runtime": found["runtime_files"] + found["runtime_heap"],
    }
    pairs = {part: (sizes[part], size) for part, size in seen.items()}
    peak = estimate["total_bytes"], measured[0]["bytes"]
    rest = peak[0] - sum(e for e, _ in pairs.values()), peak[1] - sum(m for _, m in pairs.values())
    rows = {**pairs, "activations": rest, "peak": peak}
    return {"runtime": estimate["runtime"], "rows": [_row(part, *rows[part]) for part in ESTIMATED]}


def _row(part: str, estimated: int, measured: int) -> dict[str, Any]:
    error = (estimated - measured) / max(abs(measured), 1)
    return {"part": part, "estimated_bytes": estimated, "measured_bytes": measured, "error": error}


def _moment(name: str, phase: str, size: int, parts: list[Part]) -> dict[str, Any]:
    return {"moment": name, "phase": phase, "bytes": size, "parts": parts}


def unattributed_share(moment: Mapping[str, Any]) -> float:
    """The part of a moment's bytes that no counter explains, 0 … 1."""
    return abs(moment["parts"][-1]["bytes"]) / max(moment["bytes"], 1)
