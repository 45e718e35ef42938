"""Trials and their front as one offline page: an SVG and a table, no script, nothing loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from deepseek_cli.profile.report import check_writable, digest, write
from deepseek_cli.tune.engine import Tuned
from deepseek_cli.tune.front import Trial
from deepseek_cli.tune.recipe import command_line
from deepseek_cli.tune.spec import TuneSpec

MARK = "deepseek.tune/1"
TEMPLATE = Path(__file__).parent / "page.html"
STYLE = TEMPLATE.with_suffix(".css")
WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 860, 460, 64, 48, 16
ACROSS = {"size": "size, MB", "speed": "read for a token, MB"}
MOST_TICKS = 7


def check_place(path: Path, force: bool) -> None:
    """Raises before the work what would be raised after it."""
    check_writable(path, force, MARK)


def write_page(path: Path, tuned: Tuned, model: str, spec: TuneSpec) -> None:
    """Raises ResourceError where it cannot be written."""
    write(path, render(tuned, model, spec))


def render(tuned: Tuned, model: str, spec: TuneSpec) -> str:
    style = STYLE.read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        mark=MARK,
        policy=f"default-src 'none'; style-src {digest(style)}; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        model=model,
        objectives=", ".join(spec.objectives),
        chart=_chart(tuned, "size" if "size" in spec.objectives or "speed" not in spec.objectives else "speed"),
        front=[(trial, command_line(model, trial.recipe)) for trial in tuned.front],
        trials=tuned.trials,
        gained=tuned.gained,
        hypervolume=tuned.hypervolume,
    )


def _chart(tuned: Tuned, across: str) -> dict[str, Any]:
    """Places in the picture: the objective to the right, divergence upwards by powers."""
    shown = [trial for trial in tuned.trials if trial.state == "complete"]
    xs = [trial.facts[across] / 1e6 for trial in shown]
    ys = [math.log10(max(trial.facts["kl"], 1e-9)) for trial in shown]
    x = _Axis(xs, LEFT, WIDTH - EDGE)
    y = _Axis(ys, HEIGHT - BOTTOM, EDGE)
    best = {trial.number for trial in tuned.front}
    points = [_point(trial, x.at(a), y.at(b), trial.number in best) for trial, a, b in zip(shown, xs, ys, strict=True)]
    line = sorted((p for p in points if p["best"]), key=lambda p: p["x"])
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - EDGE,
        "top": EDGE,
        "bottom": HEIGHT - BOTTOM,
        "across": ACROSS[across],
        "points": sorted(points, key=lambda p: p["best"]),
        "line": " ".join(f"{p['x']},{p['y']}" for p in line),
        "columns": [(round(x.at(v), 1), f"{v:g}") for v in x.ticks],
        "rows": [(round(y.at(v), 1), f"{10**v:.3g}") for v in y.ticks],
    }


def _point(trial: Trial, x: float, y: float, best: bool) -> dict[str, Any]:
    said = f"{trial.number}: {trial.facts['size'] / 1e6:.1f} MB, KL {trial.facts['kl']:.4f}, {trial.sampler}"
    return {"number": trial.number, "x": round(x, 1), "y": round(y, 1), "best": best, "sampler": trial.sampler, "said": said}


class _Axis:
    """Values between two edges, with some room beside the outermost."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = 0.06 * (high - low) or 0.5
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / MOST_TICKS
        scale = 10 ** math.floor(math.log10(rough))
        step = next(scale * m for m in (1, 2, 5, 10) if scale * m >= rough)
        return [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
