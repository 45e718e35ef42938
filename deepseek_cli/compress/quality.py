"""The report card of a compressed model against what it was made from, also where it has fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from deepseek_cli.compress.shape import Shape
from deepseek_cli.evaluate import WINDOW, HandlePredictor, Text, Windows, compare, cut_windows
from deepseek_cli.evaluate import seconds_for as evaluation_seconds
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize.engine import REPORT_SECONDS, REPORT_WINDOWS
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer


class OfKept(HandlePredictor):
    """The original's predictions among the tokens that are left."""

    def __init__(self, handle: ModelHandle, tokens: Tensor, kept: Tensor) -> None:
        super().__init__(handle, kept[tokens])
        self.kept = kept

    def logits(self, window: int, start: int, stop: int) -> Tensor:
        return super().logits(window, start, stop)[:, self.kept]


def reference(original: ModelHandle, tokens: Tensor, kept: Tensor | None) -> HandlePredictor:
    """What the original predicts; with `kept`, of and among the tokens of the candidate."""
    return HandlePredictor(original, tokens) if kept is None else OfKept(original, tokens, kept)


def report_card(
    original: ModelHandle,
    candidate: ModelHandle,
    kept: Tensor | None,
    texts: Sequence[Path],
    reporter: Reporter,
    *,
    always: bool = False,
) -> dict[str, Any]:
    """Like `quantize.engine.measure`; with `kept`, the original sees the text in the tokens of the candidate.

    `always`: also where that takes long.
    """
    body = {"bits_per_weight": 8 * candidate.size_bytes / candidate.parameters, "size_bytes": candidate.size_bytes}
    seconds = evaluation_seconds(original, 2 * len(texts) * REPORT_WINDOWS * WINDOW)
    if seconds > REPORT_SECONDS and not always:
        reporter.note(
            "Measuring quality would take about {minutes:.0f} minutes: deepseek eval {name}",
            minutes=seconds / 60,
            name=candidate.name,
        )
        return {**body, "unmeasured": f"estimated at {seconds:.0f} s"}
    windows: Windows = cut_windows(open_tokenizer(candidate.root), texts, most=REPORT_WINDOWS)
    before, after = reference(original, windows.tokens, kept), HandlePredictor(candidate, windows.tokens)
    found = compare(before, after, windows, reporter)
    among = {} if kept is None else {"among_tokens": len(kept)}
    return {**body, "against": original.name, **among, **found}


def divergence(original: ModelHandle, shape: Shape, windows: Tensor) -> float:
    """What leaving parts out costs before anything is rounded, on `windows` in the tokens of the shape."""
    before, after = reference(original, windows, shape.kept), HandlePredictor(shape.handle, windows)
    score = compare(before, after, Windows(windows, (Text("calibration", "", len(windows)),)))
    return float(str(score["kl"]))
