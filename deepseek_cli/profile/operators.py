"""What ONNX Runtime's own profile says per node, operator and layer: time, and its arena's counters. Units: seconds and bytes.

Counters are strings; `arena` says what they mean. Not used: `parameter_size`, which reads 0 for prepacked weights, and
`output_size`, which counts a whole KV cache at every step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

LAYER = re.compile(r"(?:^|[./_])(?:layers?|blk|h|block|attention)\.(\d+)(?:[./_]|$)")
SUFFIX = "_kernel_time"
MOST_NODES = 200
ARENA_COUNTERS = {
    "in_use_bytes": "mem_bytes_in_use",
    "requested_bytes": "mem_bytes_requested_in_use",
    "held_bytes": "mem_arena_held",
}
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


@dataclass(frozen=True, slots=True)
class Passes:
    """Which runs of the model are decoding: those from `decode_from` (µs) on. Each stands for `steps_each` steps, as only the
    first ones may have been looked at."""

    decode_from: float
    steps_each: float = 1.0

    def add(self, row: dict[str, Any], event: Event) -> None:
        if event["ts"] >= self.decode_from:
            row["decode_seconds"] += self.steps_each * event["dur"] / 1e6
        else:
            row["prefill_seconds"] += event["dur"] / 1e6


def split_passes(events: Iterable[Event], seen: int, steps: int) -> Passes:
    """The last `seen` runs of the model are decoding, and stand for all of its `steps`."""
    starts = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    return Passes(starts[-seen], steps / seen) if 0 < seen <= len(starts) else Passes(float("inf"))


def by_operator(placed: Iterable[tuple[Event, str]], passes: Passes) -> list[dict[str, Any]]:
    """One row per operator type and layer, slowest first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    names: dict[tuple[str, str], set[str]] = {}
    for event, layer in placed:
        args = event["args"]
        key = args["op_name"], layer
        row = rows.setdefault(
            key,
            {"operator": args["op_name"], "layer": layer, "prefill_seconds": 0.0, "decode_seconds": 0.0}
            | dict.fromkeys(("nodes", "calls", "arena_growth_bytes"), 0),
        )
        names.setdefault(key, set()).add(event["name"])
        row["calls"] += 1
        passes.add(row, event)
        row["arena_growth_bytes"] += max(number(args, "mem_arena_held_delta"), 0)
    for key, row in rows.items():
        row["nodes"] = len(names[key])
    return sorted(rows.values(), key=slowest_first)


def over_layers(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `by_operator`, those of all layers together."""
    sums: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = sums.get(row["operator"])
        added = {key: value + (known[key] if known else 0) for key, value in row.items() if key not in ("operator", "layer")}
        sums[row["operator"]] = {"operator": row["operator"], **added}
    return sorted(sums.values(), key=slowest_first)


def slowest_first(row: Mapping[str, Any]) -> float:
    return -float(row["prefill_seconds"] + row["decode_seconds"])


def with_layers(nodes: Iterable[Event], weights: Mapping[str, str]) -> Iterator[tuple[Event, str]]:
    """Nodes in order of time, each with its layer. `weights` maps a node to the row its weights belong to; a node without
    belongs to the one before it."""
    current = "embedding"
    for event in sorted(nodes, key=lambda e: e["ts"]):
        name = node_name(event)
        current = weights.get(name) or layer_of(name) or current
        yield event, current


def node_name(event: Event) -> str:
    return str(event["name"]).removesuffix(SUFFIX)


def by_layer(placed: Iterable[tuple[Event, str]], passes: Passes, weights_bytes: int) -> dict[str, dict[str, Any]]:
    """Seconds per layer, and what the arena had in use meanwhile beside `weights_bytes`: None where it does not count."""
    rows: dict[str, dict[str, Any]] = {}
    for event, layer in placed:
        row = rows.setdefault(layer, {"prefill_seconds": 0.0, "decode_seconds": 0.0, "activation_bytes": None})
        passes.add(row, event)
        if "mem_bytes_in_use" in event["args"]:
            used = number(event["args"], "mem_bytes_in_use") - weights_bytes
            row["activation_bytes"] = max(row["activation_bytes"] or 0, used)
    return rows


def by_node(placed: Iterable[tuple[Event, str]], passes: Passes, most: int = MOST_NODES) -> list[dict[str, Any]]:
    """One row per node, slowest first: its time, and the arena at its fullest after it."""
    rows: dict[str, dict[str, Any]] = {}
    for event, layer in placed:
        args, name = event["args"], node_name(event)
        row = rows.setdefault(
            name,
            {"node": name, "operator": args["op_name"], "layer": layer, "prefill_seconds": 0.0, "decode_seconds": 0.0}
            | dict.fromkeys((*ARENA_COUNTERS, "growth_bytes"), 0),
        )
        passes.add(row, event)
        for column, key in ARENA_COUNTERS.items():
            row[column] = max(row[column], number(args, key))
        row["growth_bytes"] += max(number(args, "mem_arena_held_delta"), 0)
    return sorted(rows.values(), key=slowest_first)[:most]


def trace_events(events: Iterable[Event], placed: Iterable[tuple[Event, str]], most: int) -> list[dict[str, Any]]:
    """The first `most` nodes that ran, for a trace: µs since the first pass began, µs, and the arena's counters."""
    zero = min((e["ts"] for e in events if e.get("name") == "model_run"), default=0)
    return [
        {"node": node_name(e), "operator": e["args"]["op_name"], "layer": layer, "ts": e["ts"] - zero, "dur": e["dur"]}
        | {column: number(e["args"], key) for column, key in ARENA_COUNTERS.items() if key in e["args"]}
        for e, layer in islice(placed, most)
    ]


def number(args: Mapping[str, str], key: str) -> int:
    try:
        return int(args.get(key, 0))
    except ValueError:
        return 0
