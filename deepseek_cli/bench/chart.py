"""Size, speed and quality of the arms as one picture that needs no network: an SVG without scripts, text as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from deepseek_cli.bench.markup import indented, legal
from deepseek_cli.bench.metrics import base, place

WIDTH, HEIGHT = 900, 500
LEFT, RIGHT, TOP, BOTTOM = 80, 290, 96, 70  # the right margin is for the names
SMALLEST, LARGEST = 7.0, 26.0  # radii: none, and the greatest KL divergence
STEPS = (1, 2, 2.5, 5, 10)
MOST_LETTERS = 34  # of a name beside its circle
LINE = 17  # between two lines of a label
STYLE = """
.back { fill: #ffffff } text { fill: #1b1f24; font: 13px system-ui, sans-serif } .title { font-size: 16px; font-weight: 600 }
.fine { fill: #57606a; font-size: 12px } .grid { stroke: #d0d7de } .leader { stroke: #57606a }
.arm { fill: #0072b2; fill-opacity: .55; stroke: #004b76 } .unknown { fill: none; stroke: #57606a; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) { .back { fill: #0d1117 } text { fill: #e6edf3 } .fine { fill: #9da7b3 }
.grid { stroke: #30363d } .leader { stroke: #9da7b3 } .arm { fill: #56b4e9; stroke: #a5d8ff } .unknown { stroke: #9da7b3 } }
"""


def chart(document: Mapping[str, Any]) -> str:
    """A circle an arm: size to the right, decoding upwards at the least depth; the larger, the farther from its original."""
    svg = ElementTree.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=str(WIDTH),
        height=str(HEIGHT),
        role="img",
    )
    metric = speed_metric(document)
    arms = [arm for arm in document["arms"] if metric in arm["metrics"]]
    ElementTree.SubElement(svg, "title").text = legal("Size, speed and quality: " + ", ".join(arm["name"] for arm in arms))
    ElementTree.SubElement(svg, "style").text = STYLE
    ElementTree.SubElement(svg, "rect", {"class": "back", "width": "100%", "height": "100%"})
    _text(svg, LEFT, 28, "Size × speed × quality", "title")
    _text(
        svg, LEFT, 48, "The larger a circle, the farther its predictions are from the original's; dashed: not measured.", "fine"
    )
    sizes, speeds = [arm["bytes"] / 1e6 for arm in arms], [arm["metrics"][metric]["median"] for arm in arms]
    across, upwards = _Axis(sizes, LEFT, WIDTH - RIGHT), _Axis(speeds, HEIGHT - BOTTOM, TOP)
    _grid(svg, across, upwards, f"{metric}, tokens/s")
    worst = max((kl for arm in arms if (kl := _kl(arm))), default=0.0)
    for arm, label_y in zip(arms, _apart([upwards.at(speed) for speed in speeds]), strict=True):
        _arm(svg, arm, across.at(arm["bytes"] / 1e6), upwards.at(arm["metrics"][metric]["median"]), label_y, worst)
    _text(
        svg, LEFT, HEIGHT - 12, document["environment"]["processor"] + f", {document['environment']['threads']} threads", "fine"
    )
    return indented(svg)


def speed_metric(document: Mapping[str, Any]) -> str:
    """Decoding at the least depth; "" where no arm got so far."""
    names = {name for arm in document["arms"] for name in arm["metrics"] if base(name) == "decode"}
    return min(names, key=place, default="")


class _Axis:
    """Values from 0 on, as places between two edges."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        most = max(values, default=1.0) or 1.0
        scale = 10 ** math.floor(math.log10(most / 4))
        self.step = next(step * scale for step in STEPS if step * scale * 4 >= most)
        self.most = self.step * math.ceil(most / self.step)
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * value / self.most

    @property
    def ticks(self) -> list[float]:
        return [self.step * i for i in range(round(self.most / self.step) + 1)]


def _grid(svg: ElementTree.Element, across: _Axis, upwards: _Axis, title: str) -> None:
    for value in across.ticks:
        _line(svg, across.at(value), upwards.start, across.at(value), upwards.end, "grid")
        _text(svg, across.at(value), upwards.start + 20, f"{value:g}", "fine", "middle")
    for value in upwards.ticks:
        _line(svg, across.start, upwards.at(value), across.end, upwards.at(value), "grid")
        _text(svg, across.start - 8, upwards.at(value) + 4, f"{value:g}", "fine", "end")
    _text(svg, (across.start + across.end) / 2, upwards.start + 40, "size, MB", "fine", "middle")
    _text(svg, across.start, upwards.end - 8, title, "fine")


def _arm(svg: ElementTree.Element, arm: Mapping[str, Any], x: float, y: float, label_y: float, worst: float) -> None:
    kl = _kl(arm)
    radius = SMALLEST + (LARGEST - SMALLEST) * math.sqrt(kl / worst) if kl and worst else SMALLEST
    kind = "unknown" if kl is None else "arm"
    ElementTree.SubElement(svg, "circle", {"class": kind, "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:.1f}"})
    edge = WIDTH - RIGHT + 12
    _line(svg, x + radius, y, edge - 4, label_y - 4, "leader")
    _text(svg, edge, label_y, shortened(arm["name"]))
    agreement = arm["metrics"].get("agreement")
    said = (
        "quality not measured"
        if kl is None
        else f"KL {kl:.3g}" + (f", agreement {agreement['median']:.1f} %" if agreement else "")
    )
    _text(svg, edge, label_y + LINE, said, "fine")


def shortened(name: str) -> str:
    """Without its middle where it is long: names that are alike differ at their ends."""
    return name if len(name) <= MOST_LETTERS else f"{name[:12]}…{name[13 - MOST_LETTERS :]}"


def _kl(arm: Mapping[str, Any]) -> float | None:
    metric = arm["metrics"].get("kl")
    return metric["median"] if metric else None


def _apart(heights: Sequence[float]) -> list[float]:
    """Where labels stand so that none covers another, as near to their circles as may be, from the top down."""
    places, free = dict[int, float](), float(TOP)
    for index in sorted(range(len(heights)), key=lambda i: heights[i]):
        places[index] = max(heights[index], free)
        free = places[index] + 2 * LINE + 6
    return [places[index] for index in range(len(heights))]


def _text(svg: ElementTree.Element, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
    facts = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, **({"class": kind} if kind else {})}
    ElementTree.SubElement(svg, "text", facts).text = legal(text)


def _line(svg: ElementTree.Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    facts = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    ElementTree.SubElement(svg, "line", {"class": kind, **{name: f"{value:.1f}" for name, value in facts.items()}})
