"""The report card of a compressed model against what it was made from, also where it has fewer tokens.

Tokens that are gone count: the original would write one, and the candidate has to begin it with the first of its pieces. Both
see the text in the tokens of the candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.compress.shape import Shape
from deepseek_cli.evaluate import WINDOW, HandlePredictor, Text, Windows, compare, cut_windows
from deepseek_cli.evaluate import seconds_for as evaluation_seconds
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize.engine import REPORT_SECONDS, REPORT_WINDOWS
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer


class OfKept(HandlePredictor):
    """The original's predictions of the tokens that are left: the probability of one that is gone is its first piece's.

    `lost` sums, over positions, what was given to tokens that are gone.
    """

    def __init__(self, handle: ModelHandle, tokens: Tensor, shape: Shape) -> None:
        assert shape.kept is not None and shape.begins is not None
        super().__init__(handle, shape.kept[tokens])
        self.kept, self.begins, self.lost, self.positions = shape.kept, shape.begins, 0.0, 0

    def logits(self, window: int, start: int, stop: int) -> Tensor:
        p = super().logits(window, start, stop).softmax(-1)
        self.lost += float((1 - p[:, self.kept].sum(-1)).sum())
        self.positions += len(p)
        left = torch.zeros(len(p), len(self.kept)).index_add_(1, self.begins, p[:, : len(self.begins)])
        return left.clamp_min(torch.finfo(left.dtype).tiny).log()


def reference(original: ModelHandle, tokens: Tensor, shape: Shape) -> HandlePredictor:
    """The original's predictions of `tokens`, which are those of the shape."""
    return HandlePredictor(original, tokens) if shape.kept is None else OfKept(original, tokens, shape)


def report_card(
    original: ModelHandle,
    candidate: ModelHandle,
    shape: Shape,
    texts: Sequence[Path],
    reporter: Reporter,
    *,
    always: bool = False,
) -> dict[str, Any]:
    """Like `quantize.engine.measure`, for a candidate that was made from `shape`. `always`: also where that takes long."""
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
    before, lost = reference(original, windows.tokens, shape), {}
    found = compare(before, HandlePredictor(candidate, windows.tokens), windows, reporter)
    if isinstance(before, OfKept):
        lost = {"among_tokens": len(before.kept), "lost_probability": before.lost / before.positions}
    return {**body, "against": original.name, **lost, **found}


def divergence(original: ModelHandle, shape: Shape, windows: Tensor) -> float:
    """What leaving parts out costs before anything is rounded, on `windows` in the tokens of the shape."""
    before, after = reference(original, windows, shape), HandlePredictor(shape.handle, windows)
    score = compare(before, after, Windows(windows, (Text("calibration", "", len(windows)),)))
    return float(str(score["kl"]))
