"""Pages without a script: one frame and style, what a template adds, and a policy that lets nothing run or load beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from deepseek_cli.profile.report import TEMPLATES, digest

STYLE = TEMPLATES / "plain.css"
MOST_TICKS = 7


Say = Callable[[str, dict[str, object]], str]  # a template and its facts, in the reader's language


def render_plain(template: Path, mark: str, command: str, name: str, say: Say, language: str, **values: Any) -> str:
    """The page of a `command` about what has this `name`; the style beside the template comes behind what all these pages share.

    `mark` says whose it is, near its start. Templates say things by `t`, which is `say` with facts by name.
    """
    css = STYLE.read_text(encoding="utf-8") + template.with_suffix(".css").read_text(encoding="utf-8")
    loader = jinja2.FileSystemLoader([template.parent, TEMPLATES])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template.name).render(
        mark=mark,
        command=command,
        name=name,
        t=lambda said, **facts: say(said, facts),
        language={"zh": "zh-CN"}.get(language, language),
        policy=f"default-src 'none'; style-src {digest(css)}; base-uri 'none'; form-action 'none'",
        style=Markup(css),
        **values,
    )


class Axis:
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
