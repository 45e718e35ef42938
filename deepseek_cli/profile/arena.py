"""The state of ONNX Runtime's arena, from the counters that its profile keeps beside each node. All figures are bytes.

Requested is what kernels asked for, in use what blocks were handed out for it, held what the arena took from the system.
The counters `mem_…` are there in ONNX Runtime ≥ 1.31 with its arena on; they are looked for by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from deepseek_cli.profile.operators import Event, number
from deepseek_cli.profile.series import thin

POINTS = 500


@dataclass(frozen=True, slots=True)
class State:
    in_use: int
    requested: int
    held: int


def after(event: Event) -> State:
    args = event["args"]
    return State(number(args, "mem_bytes_in_use"), number(args, "mem_bytes_requested_in_use"), number(args, "mem_arena_held"))


def counted(nodes: Iterable[Event]) -> list[Event]:
    """The events that carry counters, in order of time."""
    return sorted((e for e in nodes if "mem_bytes_in_use" in e["args"]), key=lambda e: e["ts"])


def start_of(nodes: Iterable[Event]) -> State | None:
    """Before the first node ran: weights and packed copies, nothing else. None without counters."""
    ordered = counted(nodes)
    if not ordered:
        return None
    first, args = after(ordered[0]), ordered[0]["args"]
    return State(
        first.in_use - number(args, "mem_in_use_delta"),
        first.requested - number(args, "mem_requested_in_use_delta"),
        first.held - number(args, "mem_arena_held_delta"),
    )


def arena_of(nodes: Iterable[Event], decode_from: float) -> dict[str, Any] | None:
    """What the arena held before the first node ran, how far it grew, and its state in each phase: at its fullest, at the end."""
    ordered = counted(nodes)
    start = start_of(ordered)
    if start is None:
        return None
    states = [(e["ts"], after(e)) for e in ordered]
    fullest = max((state for _, state in states), key=lambda s: s.in_use)
    points = [(round(ts / 1000, 3), s.in_use, s.requested, s.held) for ts, s in states]
    parts = {
        "prefill": [s for ts, s in states if ts < decode_from],
        "decode": [s for ts, s in states if ts >= decode_from],
    }
    return {
        "weights_bytes": start.in_use,
        "activations_bytes": fullest.in_use - start.in_use,
        "requested_bytes": fullest.requested,
        "lifetime_peak_bytes": max(number(e["args"], "mem_in_use_peak") for e in ordered),
        "held_bytes": max(s.held for _, s in states),
        "growths": sum(number(e["args"], "mem_arena_held_delta") > 0 for e in ordered),
        "start": asdict(start),
        "phases": {
            name: {"fullest": asdict(max(found, key=lambda s: s.in_use)), "end": asdict(found[-1])}
            for name, found in parts.items()
            if found
        },
        "points": [list(point) for point in thin(points, POINTS)],
    }
