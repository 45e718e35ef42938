"""What ONNX Runtime's own profile says: time per node, and the state of its arena beside each. Units: seconds and bytes.

Each node's event carries `mem_bytes_in_use`, `mem_in_use_delta`, `mem_arena_held` as strings (ONNX Runtime ≥ 1.31 with its
arena on; they are looked for by name). Not used: `parameter_size`, which reads 0 for prepacked weights, and `output_size`,
which counts a whole KV cache at every step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

LAYER = re.compile(r"(?:^|[./_])(?:layers?|blk|h|block|attention)\.(\d+)(?:[./_]|$)")
SUFFIX = "_kernel_time"
Event = Mapping[str, Any]


def layer_of(name: str) -> str | None:
    """The row of the layer table for a tensor or node of this name; None where the name does not tell."""
    if match := LAYER.search(name):
        return match[1]
    if "embed" in name:
        return "embedding"
    return "head" if "lm_head" in name or "norm" in name else None  # the last norm is the head's


def node_events(events: Iterable[Event]) -> list[Event]:
    return [
        e for e in events if e.get("cat") == "Node" and str(e.get("name", "")).endswith(SUFFIX) and "op_name" in e.get("args", {})
    ]


def split_passes(events: Iterable[Event], decode_passes: int) -> float:
    """The time stamp (µs) at which decoding starts: the last `decode_passes` runs of the model are decoding."""
    starts = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    return starts[-decode_passes] if 0 < decode_passes <= len(starts) else float("inf")


def by_operator(nodes: Iterable[Event], decode_from: float) -> list[dict[str, Any]]:
    """One row per operator type, slowest first."""
    rows: dict[str, dict[str, Any]] = {}
    names: dict[str, set[str]] = {}
    for event in nodes:
        args = event["args"]
        row = rows.setdefault(
            args["op_name"],
            {
                "operator": args["op_name"],
                "nodes": 0,
                "calls": 0,
                "prefill_seconds": 0.0,
                "decode_seconds": 0.0,
                "arena_growth_bytes": 0,
            },
        )
        names.setdefault(args["op_name"], set()).add(event["name"])
        row["calls"] += 1
        row["decode_seconds" if event["ts"] >= decode_from else "prefill_seconds"] += event["dur"] / 1e6
        row["arena_growth_bytes"] += max(number(args, "mem_arena_held_delta"), 0)
    for operator, row in rows.items():
        row["nodes"] = len(names[operator])
    return sorted(rows.values(), key=lambda row: -(row["prefill_seconds"] + row["decode_seconds"]))


def time_by_layer(nodes: Iterable[Event], decode_from: float, weights: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Seconds per layer. `weights` maps a node to the row its weights belong to; a node without belongs to the one before it."""
    rows: dict[str, dict[str, float]] = {}
    current = "embedding"
    for event in sorted(nodes, key=lambda e: e["ts"]):
        name = event["name"].removesuffix(SUFFIX)
        current = weights.get(name) or layer_of(name) or current
        row = rows.setdefault(current, {"prefill_seconds": 0.0, "decode_seconds": 0.0})
        row["decode_seconds" if event["ts"] >= decode_from else "prefill_seconds"] += event["dur"] / 1e6
    return rows


def arena_of(nodes: Iterable[Event]) -> dict[str, int] | None:
    """What the arena held before the first node ran (weights, prepacked copies), and how far it grew; None without counters."""
    ordered = sorted((e for e in nodes if "mem_bytes_in_use" in e["args"]), key=lambda e: e["ts"])
    if not ordered:
        return None
    first = ordered[0]["args"]
    weights = number(first, "mem_bytes_in_use") - number(first, "mem_in_use_delta")
    most = max(number(e["args"], "mem_bytes_in_use") for e in ordered)
    return {
        "weights_bytes": weights,
        "activations_bytes": most - weights,
        "lifetime_peak_bytes": max(number(e["args"], "mem_in_use_peak") for e in ordered),
        "held_bytes": max(number(e["args"], "mem_arena_held") for e in ordered),
        "growths": sum(number(e["args"], "mem_arena_held_delta") > 0 for e in ordered),
    }


def number(args: Mapping[str, str], key: str) -> int:
    try:
        return int(args.get(key, 0))
    except ValueError:
        return 0
