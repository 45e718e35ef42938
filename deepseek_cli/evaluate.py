"""How much a candidate differs from its reference: KL divergence, top-1 agreement, perplexity, next-token accuracy.

Both see the same windows of text, every position from an empty cache on, logits in float32 over the whole vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.ops.torch_parts import product_rate
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.session import Session
from deepseek_cli.runtime.tokenizer import Tokenizer
from deepseek_cli.score import Score, pooled
from deepseek_cli.tensors import HeldWeights

DATA = Path(__file__).parent / "data"
TEXT = DATA / "evaluation.txt"
TEXTS = (TEXT, DATA / "evaluation-documents.txt")  # no part of either is in the calibration text
WINDOW = 256  # tokens
CHUNK = 128  # positions whose logits are held at once


@dataclass(frozen=True, slots=True)
class Text:
    name: str
    sha256: str
    windows: int


@dataclass(frozen=True, slots=True)
class Windows:
    """`tokens` [windows, WINDOW], those of one text after those of another."""

    tokens: Tensor
    texts: tuple[Text, ...]


class Predictor(Protocol):
    def logits(self, window: int, start: int, stop: int) -> Tensor:
        """float32 [stop - start, vocabulary] for positions of one window."""


def texts_of(text: str | None) -> Sequence[Path]:
    """What --text names, or the built-in texts. Raises UsageError for a file that is not there."""
    if text and not Path(text).is_file():
        raise UsageError("There is no file {file}.", hint="Check --text.", file=text)
    return [Path(text)] if text else TEXTS


def cut_windows(tokenizer: Tokenizer, texts: Sequence[Path] = TEXTS, most: int = 16) -> Windows:
    """At most `most` windows from each text, evenly spaced.

    Raises UsageError when a text is no UTF-8, or shorter than one window.
    """
    cut = [_cut(tokenizer, text, most) for text in texts]
    return Windows(torch.cat([tokens for tokens, _ in cut]), tuple(text for _, text in cut))


def _cut(tokenizer: Tokenizer, text: Path, most: int) -> tuple[Tensor, Text]:
    try:
        content = text.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError("{file} is not UTF-8.", hint="Convert it, or give another text.", file=text) from None
    ids = tokenizer.encode(content)
    count = min(most, len(ids) // WINDOW)
    if not count:
        raise UsageError("{file} has fewer than {tokens} tokens.", hint="Give a longer text.", file=text, tokens=WINDOW)
    starts = [i * (len(ids) - WINDOW) // max(count - 1, 1) for i in range(count)]
    tokens = torch.tensor([ids[s : s + WINDOW] for s in starts])
    return tokens, Text(text.name, hashlib.sha256(content.encode()).hexdigest(), count)


class HandlePredictor:
    """A model folder, one block's weights in memory at a time; only the last hidden states stay.

    `interpreter` may look at what is computed on the way.
    """

    @torch.inference_mode()
    def __init__(
        self,
        handle: ModelHandle,
        tokens: Tensor,
        on_layer: Callable[[int], None] = lambda done: None,
        interpreter: Callable[[HeldWeights], TorchOps] = TorchOps,
    ) -> None:
        self.handle, self.weights = handle, HeldWeights(handle.weights)
        ops, arch, config = interpreter(self.weights), handle.architecture, handle.config
        x = arch.embed(ops, config, tokens)
        for layer in range(config.layers):
            self.weights.forget()
            x = torch.cat([arch.block(ops, config, part, layer) for part in x.split(4)])
            on_layer(layer + 1)
        self.weights.forget()
        self.normed = arch.norm(ops, config, x)

    @torch.inference_mode()
    def logits(self, window: int, start: int, stop: int) -> Tensor:
        x = self.normed[window : window + 1, start:stop]
        return self.handle.architecture.head(TorchOps(self.weights), self.handle.config, x)[0]


class SessionPredictor:
    """Anything that runs, a bundle in its own runtime above all."""

    def __init__(self, session: Session, tokens: Tensor) -> None:
        self.session, self.tokens, self.current = session, tokens, (-1, torch.empty(0))

    def logits(self, window: int, start: int, stop: int) -> Tensor:
        if self.current[0] != window:
            self.session.rewind(0)
            self.current = (window, torch.from_numpy(self.session.feed(self.tokens[window].tolist(), keep=0)))
        return self.current[1][start:stop]


@torch.inference_mode()
def compare(reference: Predictor, candidate: Predictor, windows: Windows, reporter: Reporter = SILENT) -> dict[str, object]:
    """The report card of a candidate: see `Score.result`, over all texts and, under `texts`, of each."""
    scores = []
    start = 0
    for text in windows.texts:
        scores.append(Score())
        for window in range(start, start + text.windows):
            _compare(reference, candidate, windows.tokens[window], window, scores[-1])
            reporter.progress("compare", window + 1, len(windows.tokens))
        start += text.windows
    each = [
        {"text": text.name, "text_sha256": text.sha256, "windows": text.windows, **score.result()}
        for text, score in zip(windows.texts, scores, strict=True)
    ]
    names, digests = (", ".join(values) for values in zip(*((text.name, text.sha256) for text in windows.texts), strict=True))
    whole = {"text": names, "text_sha256": digests, "window": windows.tokens.shape[1]}
    return {**pooled(scores).result(), **whole, "texts": each}


def _compare(reference: Predictor, candidate: Predictor, tokens: Tensor, window: int, score: Score) -> None:
    for start in range(0, len(tokens), CHUNK):
        stop = min(start + CHUNK, len(tokens))
        score.update(reference.logits(window, start, stop), candidate.logits(window, start, stop), tokens[start + 1 : stop + 1])


def seconds_for(handle: ModelHandle, tokens: int) -> float:
    """A rough time for `tokens` through the PyTorch interpreter, from this machine's own matrix rate."""
    return 2 * handle.parameters * tokens / (0.5 * product_rate(torch.float32))


def evaluate_handle(
    reference: ModelHandle, candidate: ModelHandle, windows: Windows, reporter: Reporter = SILENT
) -> dict[str, object]:
    """Compare two model folders, each streamed block by block."""
    steps = reference.config.layers + candidate.config.layers
    a = HandlePredictor(reference, windows.tokens, lambda done: reporter.progress("evaluate", done, steps))
    b = HandlePredictor(
        candidate, windows.tokens, lambda done: reporter.progress("evaluate", reference.config.layers + done, steps)
    )
    return compare(a, b, windows, reporter)


def check_vocabulary(sizes: Sequence[int]) -> None:
    """Raises UsageError unless both models speak the same vocabulary."""
    if len(set(sizes)) > 1:
        raise UsageError(
            "The models have vocabularies of {sizes} tokens.",
            hint="Compare models of one family.",
            sizes=" and ".join(map(str, sizes)),
        )
