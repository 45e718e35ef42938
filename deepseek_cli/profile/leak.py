"""Whether a session keeps memory: the same work over and over in one process, and the growth of what is resident."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

from deepseek_cli.profile import memory
from deepseek_cli.profile.series import trend
from deepseek_cli.runtime.session import Session

WARM_UP = 2  # iterations that are not counted: allocators still learn how much they need
TOLERATED = 64 << 10  # bytes an iteration


def leak_of(session: Session, prompt: Sequence[int], new_tokens: int, iterations: int) -> dict[str, Any]:
    """Anonymous memory after each of `iterations`, and its slope in bytes; it leaks where even the low end is too much."""
    sizes = []
    for _ in range(WARM_UP + iterations):
        session.rewind(0)
        logits = session.feed(prompt)
        for _ in range(new_tokens):
            logits = session.feed([int(logits[-1].argmax())])
        gc.collect()
        now = memory.resident()
        sizes.append(now.rss if now.anonymous is None else now.anonymous)
    counted = sizes[WARM_UP:]
    found = trend(counted)
    return {
        "iterations": iterations,
        "slope_bytes": found.slope,
        "low_bytes": found.low,
        "high_bytes": found.high,
        "leaks": found.low > TOLERATED,
        "points": [[i, size] for i, size in enumerate(counted, 1)],
    }
