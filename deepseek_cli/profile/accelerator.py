"""What torch's allocators say of CUDA, ROCm and MPS: bytes in tensors (allocated), held from the driver (reserved), their
peak, and the share of what is held that no tensor uses. ROCm answers under CUDA's names.

A recorded snapshot, `torch.cuda.memory._snapshot()`, gives the same figures; `snapshot` reads its files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from deepseek_cli.profile.series import trend

Row = dict[str, Any]  # {"phase", "allocated_bytes", "reserved_bytes", "peak_bytes", "fragmentation", "slope_bytes"}
IN_USE = "active_allocated"
LEAST = 3  # steps for a slope


class AllocatorReader:
    """Rows by phase while a program runs; `rows` stays None where it has no accelerator, or never loads torch."""

    def __init__(self) -> None:
        self.rows: list[Row] | None = None
        self.steps: list[int] = []

    def reset(self) -> None:
        if (torch := loaded()) and torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()

    def step(self) -> None:
        if now := read():
            self.steps.append(now["allocated_bytes"])

    def phase(self, name: str) -> None:
        if now := read():
            slope = trend(self.steps).slope if len(self.steps) >= LEAST else None
            self.rows = [*(self.rows or []), {"phase": name, **now, "slope_bytes": slope}]
            self.steps = []
            self.reset()


def loaded() -> Any:
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "cuda") and hasattr(torch, "backends") else None


def read() -> Row | None:
    """The figures of all this machine's GPUs now; None where torch uses none."""
    torch = loaded()
    if torch is None:
        return None
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        every = [torch.cuda.memory_stats(device) for device in range(torch.cuda.device_count())]
        return figures(*(sum(each.get(key, 0) for each in every) for key in KEYS))
    if torch.backends.mps.is_available():  # it tells no peak
        return figures(torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory(), None)
    return None


KEYS = ("allocated_bytes.all.current", "reserved_bytes.all.current", "allocated_bytes.all.peak")


def figures(allocated: int, reserved: int, peak: int | None) -> Row:
    fragmentation = 1 - allocated / reserved if reserved else 0.0
    return {"allocated_bytes": allocated, "reserved_bytes": reserved, "peak_bytes": peak, "fragmentation": fragmentation}


def row_of(snapshot: Mapping[str, Any]) -> Row:
    """Of the moment the snapshot was taken; its peak is the most that its recorded history reached, where it has one.

    Raises ValueError, KeyError, TypeError, AttributeError or IndexError for what is no snapshot.
    """
    blocks = [block for segment in snapshot["segments"] for block in segment["blocks"]]
    allocated = sum(int(block["size"]) for block in blocks if block["state"] == IN_USE)
    reserved = sum(int(segment["total_size"]) for segment in snapshot["segments"])
    peak = max((highest(trace, snapshot["segments"], device) for device, trace in enumerate(traces(snapshot))), default=0)
    return {"phase": "snapshot", **figures(allocated, reserved, max(peak, allocated)), "slope_bytes": None}


def size_of(block: Mapping[str, Any]) -> int:
    """What was asked for, as a trace counts: the block itself is rounded up."""
    return int(block.get("requested_size", block["size"]))


def traces(snapshot: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
    yield from snapshot.get("device_traces") or []


def highest(trace: list[Mapping[str, Any]], segments: list[Mapping[str, Any]], device: int) -> int:
    """The most bytes that were allocated on a device, going back from the snapshot through what it recorded."""
    own = (segment for segment in segments if segment.get("device", 0) == device)
    now = most = sum(size_of(block) for segment in own for block in segment["blocks"] if block["state"] == IN_USE)
    for event in reversed(trace):
        if event["action"] == "alloc":
            now -= int(event["size"])
        elif event["action"] == "free_completed":
            now += int(event["size"])
        most = max(most, now)
    return most
