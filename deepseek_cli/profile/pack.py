"""A document made small enough for a page: rows as columns, fewer points, and tensors by module where there are too many."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from typing import Any

from deepseek_cli.profile.series import thin

MOST_BYTES = 1_800_000  # of the figures; the page itself takes up to 200 kB
BASELINE_POINTS = 400
COLUMNS = "$columns"


def pack(document: dict[str, Any], baseline: dict[str, Any] | None) -> dict[str, Any]:
    """What the page's script reads; `unpack` in `scripts/data.js` undoes it. `aggregated` says what was left out."""
    steps: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = [
        *(("tensors", _coarser) for _ in range(6)),
        ("nodes", lambda d: {**d, "nodes": d["nodes"][:20]}),
        ("layer_operators", lambda d: {**d, "layer_operators": []}),
        ("points", lambda d: {**d, "timeline": {**d["timeline"], "points": thin([*map(tuple, d["timeline"]["points"])], 200)}}),
        ("tensors", lambda d: {**d, "tensors": []}),
        ("nodes", lambda d: {**d, "nodes": []}),
    ]
    thinner = baseline and {**baseline, "timeline": _thinned(baseline.get("timeline"))}
    left_out: set[str] = set()
    packed = columns({"document": document, "baseline": thinner})
    for name, step in steps:
        if size(packed) <= MOST_BYTES:
            break
        if document.get(name) or (name == "points" and document.get("timeline")):
            document = step(document)
            left_out.add(name)
            packed = columns({"document": document, "baseline": thinner})
    return {**packed, "aggregated": sorted(left_out)}


def size(data: Any) -> int:
    """Bytes in the page, where each of the characters that could be markup takes six."""
    text = json.dumps(data, separators=(",", ":"))
    return len(text) + 5 * sum(map(text.count, "&<>"))


def columns(data: Any) -> Any:
    """Lists of like objects as {"$columns": their keys, "rows": their values}; seven digits of what is no whole number."""
    if isinstance(data, float):
        return float(f"{data:.7g}") if isfinite(data) else None
    if isinstance(data, dict):
        return {key: columns(value) for key, value in data.items()}
    if not isinstance(data, list | tuple):
        return data
    if len(data) < 4 or not all(isinstance(row, dict) and row.keys() == data[0].keys() for row in data):
        return [columns(value) for value in data]
    return {COLUMNS: list(data[0]), "rows": [[columns(value) for value in row.values()] for row in data]}


def _coarser(document: dict[str, Any]) -> dict[str, Any]:
    """The tensors with the last part of the longest names left out, those of one name then together."""
    depth = max(tensor["name"].count(".") for tensor in document["tensors"])
    merged: dict[tuple[str, str, str], dict[str, Any]] = {}
    for tensor in document["tensors"]:
        name = ".".join(tensor["name"].split(".")[: max(depth, 1)])
        row = merged.setdefault((name, tensor["layer"], tensor["form"]), {**tensor, "name": name, "parameters": 0, "bytes": 0})
        row["parameters"] += tensor["parameters"]
        row["bytes"] += tensor["bytes"]
    return {**document, "tensors": list(merged.values())}


def _thinned(timeline: dict[str, Any] | None) -> dict[str, Any] | None:
    if not timeline:
        return None
    return {"points": thin([tuple(point) for point in timeline["points"]], BASELINE_POINTS)}
