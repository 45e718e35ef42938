"""Trials and their front as one offline page: an SVG and a table, no script, nothing loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from deepseek_cli.profile.plain import Axis, Say, render_plain
from deepseek_cli.profile.report import check_writable, write
from deepseek_cli.tune.engine import Tuned
from deepseek_cli.tune.front import Trial
from deepseek_cli.tune.recipe import command_line
from deepseek_cli.tune.spec import TuneSpec

MARK = "deepseek.tune/1"
TEMPLATE = Path(__file__).parent / "page.html"
WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 860, 460, 64, 48, 16


def check_place(path: Path, force: bool) -> None:
    """Raises before the work what would be raised after it."""
    check_writable(path, force, MARK)


def write_page(path: Path, tuned: Tuned, model: str, spec: TuneSpec, say: Say, language: str) -> None:
    """Raises ResourceError where it cannot be written."""
    write(path, render(tuned, model, spec, say, language))


def render(tuned: Tuned, model: str, spec: TuneSpec, say: Say, language: str) -> str:
    return render_plain(
        TEMPLATE,
        MARK,
        "tune",
        model,
        say,
        language,
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
    x = Axis(xs, LEFT, WIDTH - EDGE)
    y = Axis(ys, HEIGHT - BOTTOM, EDGE)
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
        "across": across,
        "points": sorted(points, key=lambda p: p["best"]),
        "line": " ".join(f"{p['x']},{p['y']}" for p in line),
        "columns": [(round(x.at(v), 1), f"{v:g}") for v in x.ticks],
        "rows": [(round(y.at(v), 1), f"{10**v:.3g}") for v in y.ticks],
    }


def _point(trial: Trial, x: float, y: float, best: bool) -> dict[str, Any]:
    said = f"{trial.number}: {trial.facts['size'] / 1e6:.1f} MB, KL {trial.facts['kl']:.4f}, {trial.sampler}"
    return {"number": trial.number, "x": round(x, 1), "y": round(y, 1), "best": best, "sampler": trial.sampler, "said": said}
