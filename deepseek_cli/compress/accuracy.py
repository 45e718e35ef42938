"""Next-token accuracy over a long text, for a gate on its loss: over a few thousand tokens the bound says more of chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.compress.quality import reference
from deepseek_cli.compress.shape import Shape
from deepseek_cli.evaluate import WINDOW, HandlePredictor, Predictor, Windows, cut_windows
from deepseek_cli.handle import ModelHandle
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from deepseek_cli.score import accuracy_losses

WANTED = 100_000  # tokens to predict
PART = 64  # windows whose hidden states are in memory at once


def long_windows(tokenizer: Tokenizer, texts: Sequence[Path]) -> Windows:
    """All of the texts, or so much of each as gives WANTED tokens."""
    return cut_windows(tokenizer, texts, most=-(-WANTED // (WINDOW - 1)))


def tell_tokens(tokenizer: Tokenizer, texts: Sequence[Path], reporter: Reporter) -> None:
    """Before any work, of how many tokens a gate will know. Raises UsageError for a text that does not serve."""
    tokens = predicted(long_windows(tokenizer, texts))
    if tokens < WANTED:
        reporter.note(
            "Accuracy is measured over {tokens} tokens, all there are; over {wanted} its bound is tighter: --text FILE",
            tokens=tokens,
            wanted=WANTED,
        )


def predicted(windows: Windows) -> int:
    return len(windows.tokens) * (windows.tokens.shape[1] - 1)


def accuracy_gate(
    original: ModelHandle,
    candidate: ModelHandle,
    shape: Shape,
    texts: Sequence[Path],
    most: float,
    known: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """By how much next-token accuracy falls, relatively, with the bounds of a paired bootstrap.

    It ends early where the loss is surely above `most`. The original's part is kept in the folder `known`.
    """
    windows = long_windows(open_tokenizer(candidate.root), texts)
    order = torch.randperm(len(windows.tokens), generator=torch.Generator().manual_seed(0))  # any part of it is of all texts
    parts = windows.tokens[order].split(PART)
    right = torch.empty(0, 2, dtype=torch.bool)
    for i, part in enumerate(parts):
        before = _known(known / f"accuracy-{i}", lambda part=part: reference(original, part, shape), part)
        right = torch.cat([right, torch.stack([before, is_right(HandlePredictor(candidate, part), part)], dim=-1)])
        least, highest = accuracy_losses(right)
        decided = least > most
        reporter.progress("accuracy", len(parts) if decided else i + 1, len(parts))
        if decided:
            break
    accuracy = right.double().mean(0).tolist()
    return {
        "tokens": len(right),
        "of_tokens": predicted(windows),
        "text": ", ".join(text.name for text in windows.texts),
        "text_sha256": ", ".join(text.sha256 for text in windows.texts),
        "reference_accuracy": accuracy[0],
        "accuracy": accuracy[1],
        "accuracy_loss": 1 - accuracy[1] / max(accuracy[0], 1e-9),
        "accuracy_loss_least": least,
        "accuracy_loss_most": highest,
    }


def is_right(predictor: Predictor, tokens: Tensor) -> Tensor:
    """Of each token but a window's first, whether it was the likeliest, [windows × (length - 1)]."""
    length = tokens.shape[1]
    return torch.cat([predictor.logits(i, 0, length - 1).argmax(-1) == row[1:] for i, row in enumerate(tokens)])


def _known(file: Path, predictor: Any, tokens: Tensor) -> Tensor:
    """What the original gets right, once for all attempts and runs."""
    if not file.is_file():
        staged = file.with_suffix(".new")
        staged.write_bytes(bytes(is_right(predictor(), tokens).tolist()))
        staged.replace(file)
    return torch.tensor(list(file.read_bytes()), dtype=torch.bool)
