"""What a bundle computes beside what its model computes: logits (L2) and greedy tokens (L3), in the target's own runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek_cli.evaluate import TEXT
from deepseek_cli.handle import ModelHandle
from deepseek_cli.runtime.session import Session
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.torch_session import TorchSession

LOGITS_TOLERANCE = 1e-3  # of the logits' range, activations not rounded
TEXT_TOKENS, PROMPT_TOKENS, NEW_TOKENS = 96, 32, 64
CONTEXT = max(TEXT_TOKENS, PROMPT_TOKENS + NEW_TOKENS)

Check = dict[str, Any]


def compare_outputs(
    handle: ModelHandle, open_bundle: Callable[[bool], Session], threads: int | None, tokens: bool
) -> list[Check]:
    """Logits with activations as they are, and with `tokens` greedy tokens, so and as the bundle is shipped.

    `open_bundle(exact)` gives a session for CONTEXT tokens.
    """
    exact = open_bundle(True)
    expected = expect(handle, exact.context, NEW_TOKENS if tokens else 0, threads)
    noise = difference(exact, expected)
    error = noise / float(np.ptp(expected.logits))
    result = f"largest difference {error:.1e} of the range, over {len(expected.text)} tokens"
    checks: list[Check] = [
        {"level": "L2", "name": "logits", "result": result, "ok": error <= LOGITS_TOLERANCE, "largest_difference": error}
    ]
    if tokens and checks[0]["ok"]:
        checks.append({"name": "tokens, activations exact", **compare_tokens(exact, expected, noise)})
        del exact
        shipped = open_bundle(False)
        checks.append({"name": "tokens, as shipped", **compare_tokens(shipped, expected, difference(shipped, expected))})
    return checks


@dataclass(frozen=True)
class Expected:
    """What the PyTorch interpreter says: logits over one text, and a greedy continuation of another."""

    text: list[int]
    logits: np.ndarray  # [text, vocabulary]
    prompt: list[int]
    tokens: list[int]
    margins: list[float]  # of each token's logit over the next best


def expect(handle: ModelHandle, context: int, new_tokens: int, threads: int | None) -> Expected:
    """Two stretches of the evaluation text, so that noise is not measured where it then excuses."""
    ids = open_tokenizer(handle.root).encode(TEXT.read_text(encoding="utf-8"))
    text, prompt = ids[:TEXT_TOKENS][:context], ids[len(ids) // 2 :][: min(PROMPT_TOKENS, context // 2)]
    session = TorchSession(handle, context, threads, device="cpu")
    logits = session.feed(text, keep=0).copy()
    session.rewind(0)
    tokens, margins, fed = [], [], prompt
    for _ in range(min(new_tokens, context - len(prompt))):
        best = session.feed(fed)[0]
        second, first = np.partition(best, -2)[-2:]
        tokens.append(int(best.argmax()))
        margins.append(float(first - second))
        fed = tokens[-1:]
    return Expected(text, logits, prompt, tokens, margins)


def difference(session: Session, expected: Expected) -> float:
    """The largest difference of any logit over the text."""
    session.rewind(0)
    return float(np.abs(session.feed(expected.text, keep=0) - expected.logits).max())


def compare_tokens(session: Session, expected: Expected, noise: float) -> Check:
    """Each expected token against the session's own choice behind those before it. A different choice is excused
    where the reference's margin is below `noise`."""
    session.rewind(0)
    chosen = []
    for fed in (expected.prompt, *([token] for token in expected.tokens[:-1])):
        chosen.append(int(session.feed(fed)[0].argmax()))
    margins = [m for a, b, m in zip(chosen, expected.tokens, expected.margins, strict=True) if a != b]
    excused = sum(margin < noise for margin in margins)
    count = len(chosen)
    result = f"{count - len(margins)} of {count} equal" + (f", {excused} others within noise" if excused else "")
    return {
        "level": "L3",
        "result": result,
        "ok": len(margins) == excused,
        "tokens": count,
        "equal": count - len(margins),
        "excused": excused,
        "noise": noise,
    }
