"""The measured run as a trace in Chrome's JSON format, which Perfetto and chrome://tracing open. Times are microseconds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MEASURED, PROFILED = 1, 2  # the two runs, each as a process of its own
Event = dict[str, Any]


def render_trace(document: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> str:
    """`nodes` are those of the second run, with ONNX Runtime's profiler: what `measure.profile` puts into `nodes`."""
    about = {"schema": document["schema"], "model": document["model"].get("name", ""), "when": document["run"]["when"]}
    events = [*_named(MEASURED, "measured"), *_phases(document), *_counters(document)]
    if nodes:
        events += [*_named(PROFILED, "with the runtime's profiler"), *map(_node, nodes)]
    return json.dumps({"displayTimeUnit": "ms", "otherData": about, "traceEvents": events}, separators=(",", ":")) + "\n"


def _named(process: int, name: str) -> Iterator[Event]:
    yield {"ph": "M", "pid": process, "tid": 1, "name": "process_name", "args": {"name": name}}


def _phases(document: Mapping[str, Any]) -> Iterator[Event]:
    for phase in document["phases"]:
        facts = {key: phase[key] for key in ("tokens", "rss_bytes", "peak_bytes")}
        yield _span(MEASURED, phase["phase"], "phase", phase["start_seconds"] * 1e6, phase["seconds"] * 1e6, facts)


def _counters(document: Mapping[str, Any]) -> Iterator[Event]:
    for milliseconds, rss, file in document["timeline"]["points"]:
        sizes = {"anonymous": rss - file, "file-backed": file}
        yield {"ph": "C", "pid": MEASURED, "tid": 1, "name": "resident bytes", "ts": milliseconds * 1000, "args": sizes}


def _node(node: Mapping[str, Any]) -> Event:
    facts = {key: value for key, value in node.items() if key not in ("node", "operator", "ts", "dur")}
    return _span(PROFILED, node["node"], node["operator"], node["ts"], node["dur"], facts)


def _span(process: int, name: str, kind: str, start: float, length: float, facts: Mapping[str, Any]) -> Event:
    span = {"ph": "X", "pid": process, "tid": 1, "name": name, "cat": kind}
    return {**span, "ts": round(start, 3), "dur": round(length, 3), "args": dict(facts)}
