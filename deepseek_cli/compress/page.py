"""A result of `compress` as one offline page: frontier, decisions, schemes, memory and answers; no script, nothing loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_cli.compress.plan import Candidate
from deepseek_cli.compress.result import Compressed
from deepseek_cli.compress.sanity import MOST
from deepseek_cli.compress.spec import GATE
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.profile.devices import Device, find_device, memory_here
from deepseek_cli.profile.estimate import fit_on, footprint
from deepseek_cli.profile.operators import layer_of
from deepseek_cli.profile.parts import ESTIMATED
from deepseek_cli.profile.plain import Axis, Say, render_plain
from deepseek_cli.profile.report import check_writable, write
from deepseek_cli.profile.sketch import sketch_of
from deepseek_cli.runtime.context import DEFAULT_CONTEXT
from deepseek_cli.store import Store

MARK = "deepseek.compress/1"
TEMPLATE = Path(__file__).parent / "page.html"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, EDGE = 860, 420, 76, 48, 28, 16
LEAST_KL = 1e-6  # that a logarithmic axis shows
MOST_NAMED = 16  # of a list of what was kept
BAR, FAR = 640, 3  # of the memory's picture: its width, and how far beyond the bars a device's limit is still drawn
LAYER = re.compile(r"^model\.(?:layers\.\d+\.(?:self_attn\.|mlp\.)?)?")
EXPERT = re.compile(r"\bexperts\.\d+\.")
BITS = re.compile(r"\d+")


def check_place(path: Path, force: bool) -> None:
    """Raises before the work what would be raised after it."""
    check_writable(path, force, MARK)


def write_page(
    path: Path, done: Compressed, original: ModelHandle, store: Store, device: str | None, say: Say, language: str
) -> None:
    """`device` is what it is to run on, this machine where it is None. Raises ResourceError for a file that cannot be written."""
    small = open_model(str(done.result.path), store)
    write(path, render(done, original, small, find_device(device) if device else memory_here(), say, language))


def render(done: Compressed, original: ModelHandle, small: ModelHandle, device: Device, say: Say, language: str) -> str:
    report = (done.result.manifest.report if done.result.manifest else None) or {}
    parts, rows = _schemes(small)
    return render_plain(
        TEMPLATE,
        MARK,
        "compress",
        done.result.name,
        say,
        language,
        original=original,
        done=done,
        report=report,
        gate=report.get(GATE),
        chart=_chart(done.frontier, done.goal_bytes),
        decisions=[_decision(decision) for decision in done.decisions],
        parts=parts,
        rows=rows,
        memory=_memory(original, small, device),
        device=device,
        estimated=ESTIMATED,
        sanity=report.get("sanity") or {},
        answer_tokens=MOST,
    )


def _chart(candidates: Sequence[Candidate], goal: int) -> dict[str, Any]:
    """Places in the picture: bytes to the right, divergence upwards by powers; what was predicted, and what it came to."""
    found = [
        (i, kind, size / 1e6, math.log10(max(kl, LEAST_KL)))
        for i, c in enumerate(candidates)
        for kind, size, kl in (("predicted", c.size_bytes, c.kl), ("measured", c.measured_bytes or c.size_bytes, c.measured_kl))
        if kl is not None
    ]
    x = Axis([*(size for _, _, size, _ in found), goal / 1e6], LEFT, WIDTH - EDGE)
    y = Axis([kl for *_, kl in found], HEIGHT - BOTTOM, TOP)
    points = [
        {
            "row": i,
            "kind": "chosen" if kind == "measured" and candidates[i].chosen else kind,
            "x": round(x.at(size), 1),
            "y": round(y.at(kl), 1),
            "mb": size,
            "kl": 10**kl,
            "candidate": candidates[i],
        }
        for i, kind, size, kl in found
    ]
    return {
        **{"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - EDGE, "top": TOP, "bottom": HEIGHT - BOTTOM},
        "goal": round(x.at(goal / 1e6), 1),
        "points": points,
        "misses": [(a, b) for a in points for b in points if a["row"] == b["row"] and a["kind"] == "predicted" != b["kind"]],
        "columns": [(round(x.at(v), 1), f"{v:g}") for v in x.ticks],
        "rows": [(round(y.at(v), 1), f"{10**v:.3g}") for v in y.ticks],
    }


def _decision(decision: Mapping[str, Any]) -> dict[str, str]:
    rest = {name: value for name, value in decision.items() if name not in ("step", "layer")}
    return {
        "step": str(decision.get("step", "")),
        "layer": str(decision.get("layer", "")),
        "what": "; ".join(f"{name} {_value(value)}" for name, value in rest.items() if value is not True),
    }


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        shown = ", ".join(map(str, value[:MOST_NAMED]))
        return shown if len(value) <= MOST_NAMED else f"{shown}, … ({len(value)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _schemes(small: ModelHandle) -> tuple[list[str], list[tuple[str, list[dict[str, str]], int]]]:
    """The kinds of matrices, and by layer the scheme of each of them, with the layer's bytes."""
    rows: dict[str, dict[str, set[str]]] = {}
    sizes: dict[str, int] = {}
    for ref in small.weights.values():
        layer = layer_of(ref.name) or "other"
        sizes[layer] = sizes.get(layer, 0) + ref.size_bytes
        if len(ref.shape) == 2:
            part = EXPERT.sub("experts.*.", LAYER.sub("", ref.name)).removesuffix(".weight")
            rows.setdefault(layer, {}).setdefault(part, set()).add(ref.stored)
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    return parts, [(layer, [_cell(row.get(part)) for part in parts], sizes[layer]) for layer, row in rows.items()]


def _cell(schemes: set[str] | None) -> dict[str, str]:
    if not schemes:
        return {"text": "", "kind": ""}
    bits = min(int(found[0]) if (found := BITS.search(scheme)) else 16 for scheme in schemes)
    return {"text": ", ".join(sorted(schemes)), "kind": f"bits-{bits}"}


def _memory(original: ModelHandle, small: ModelHandle, device: Device) -> dict[str, Any]:
    """What each would take on the device, in a runtime that keeps weights as they are stored, at an everyday context."""
    rows = []
    for model in (original, small):
        sketch = sketch_of(model)
        tokens = min(model.config.context, DEFAULT_CONTEXT)
        found = footprint(sketch, sketch.weights, "packed", "fp16", tokens)
        rows.append({"name": model.name, "tokens": tokens, "fit": fit_on(device, sketch), **found})
    largest = max(sum(part["bytes"] for part in row["parts"]) for row in rows)
    drawn = device.usable_bytes <= FAR * largest
    scale = BAR / max(largest, device.usable_bytes if drawn else 0)
    for i, row in enumerate(rows):
        at, row["y"] = 0.0, 14 + 40 * i
        for part in row["parts"]:
            part |= {"x": round(at, 1), "width": round(scale * part["bytes"], 1)}
            at += scale * part["bytes"]
    return {"rows": rows, "usable": round(scale * device.usable_bytes, 1) if drawn else None, "width": BAR}
