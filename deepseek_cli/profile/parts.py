"""What resident memory is made of. The parts of a moment always sum to what the system reports for it, exactly.

A part is only what a counter gives: a named mapping, the pages of a known buffer, the C library's allocator, CPython's, the
runtime's own. The rest is `unattributed`: shown, never spread. It is negative where allocators count more pages that are
not resident than they hold out of use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = {
    "weights_mapped": "weights, mapped from the file",
    "weights_memory": "weights, copied into memory",
    "prepacked": "weights, packed for the kernels",
    "kv": "KV cache",
    "activations": "activations and workspace",
    "arena_padding": "padding of the arena's blocks",
    "arena_slack": "held by the arena, not in use",
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "buffers": "buffers",
    "other_tensors": "activations and other tensors",
    "device_tensors": "tensors on the device",
    "device_unused": "held on the device, not in use",
    "logits": "logits",
    "runtime_files": "libraries and code, mapped",
    "python": "Python's own objects",
    "runtime_heap": "libraries' heap",
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


def moments(phases: list[dict[str, Any]], arena: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The peak first, then the end of each phase: {"moment", "phase", "bytes", "parts"}.

    `phases` are the worker's records; `arena` is ONNX Runtime's allocator (see `arena`), or None.
    """
    if not phases:
        return []
    found = [_moment(p["name"], p["name"], p["rss_bytes"], parts_at(p, arena, "end")) for p in phases]
    highest = max(phases, key=lambda phase: phase["peak_bytes"] or 0)
    if highest["peak_bytes"] is None:
        return found
    parts = parts_at(highest, arena, "fullest")
    freed = {"part": "transient", "bytes": highest["peak_bytes"] - highest["rss_bytes"]}
    return [_moment("peak", highest["name"], highest["peak_bytes"], [*parts[:-1], freed, parts[-1]]), *found]


def parts_at(phase: Mapping[str, Any], arena: Mapping[str, Any] | None, when: str) -> list[Part]:
    """The parts at the end of `phase`; where `when` is "fullest", the arena's share as it was when it was fullest."""
    held = held_by_arena(phase, arena, when)
    loaded = phase["weights_memory_bytes"]
    counted_on_heap = loaded + phase["logits_bytes"] + sum(held.values())
    known = {
        "weights_mapped": phase["model_file_bytes"] or 0,
        "weights_memory": loaded + held["weights_memory"],
        "prepacked": held["prepacked"],
        "kv": phase["kv_resident_bytes"],
        "activations": held["activations"],
        "arena_padding": held["arena_padding"],
        "arena_slack": held["arena_slack"],
        "logits": phase["logits_bytes"],
        "runtime_files": (phase["other_file_bytes"] or 0) + (phase.get("other_private_bytes") or 0),
        "python": phase.get("python_bytes", 0),
        "runtime_heap": max(phase.get("heap_used_bytes", 0) - counted_on_heap, 0),
        "heap_free": phase["heap_free_bytes"],
    }
    rest = phase["rss_bytes"] - sum(known.values())
    for idle in ("arena_slack", "heap_free"):  # what is in use was written; of these, some pages never were, or were given back
        absent = min(max(-rest, 0), known[idle])
        known[idle] -= absent
        rest += absent
    return [*({"part": k, "bytes": v} for k, v in known.items()), {"part": "unattributed", "bytes": rest}]


def held_by_arena(phase: Mapping[str, Any], arena: Mapping[str, Any] | None, when: str) -> dict[str, int]:
    """What the arena holds, told apart by its own counters; nothing before it is there."""
    parts = dict.fromkeys(("weights_memory", "prepacked", "activations", "arena_padding", "arena_slack"), 0)
    if arena is None or phase["name"] == "import":
        return parts
    start, packed = arena["start"], packed_bytes(arena)
    parts["weights_memory"] = start["in_use"] - packed
    if phase.get("unpacked"):
        return parts
    state = arena["phases"].get(phase["name"], {}).get(when, start)
    padding = state["in_use"] - state["requested"] - (start["in_use"] - start["requested"])
    return parts | {
        "prepacked": packed,
        "activations": state["in_use"] - start["in_use"] - padding,
        "arena_padding": padding,
        "arena_slack": state["held"] - state["in_use"],
    }


def packed_bytes(arena: Mapping[str, Any]) -> int:
    """What packing added to the weights in the arena: its bytes in a session that packs, less those in one that does not."""
    unpacked = arena["unpacked_bytes"]
    return 0 if unpacked is None else max(arena["start"]["in_use"] - unpacked, 0)


def beside(estimate: Mapping[str, Any] | None, measured: list[dict[str, Any]]) -> dict[str, Any] | None:
    """An estimate's parts with what was measured of each, and the error as a share of it; None without both.

    Weights, cache and libraries are those at the end of the run, the peak is that of the whole run, and the rest lies between.
    """
    if not estimate or not measured or measured[0]["moment"] != "peak":
        return None
    found = {part["part"]: part["bytes"] for part in measured[-1]["parts"]}
    sizes = {part["part"]: part["bytes"] for part in estimate["parts"]}
    seen = {
        "weights": found["weights_mapped"] + found["weights_memory"] + found["prepacked"],
        "kv": found["kv"],
        "runtime": found["runtime_files"] + found["python"] + found["runtime_heap"],
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
