"""Generation: prefill, then one token after another, as text that streams."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from deepseek_cli.runtime.sampling import Sampler, Sampling
from deepseek_cli.runtime.session import Session
from deepseek_cli.runtime.speculate import Drafter, Stepper
from deepseek_cli.runtime.tokenizer import Tokenizer


@dataclass
class Timing:
    """Seconds of a generation; `prompt` and `new` count tokens."""

    prompt: int = 0
    new: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    @property
    def prefill_rate(self) -> float:
        return self.prompt / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens per second behind the first, which the prefill gave."""
        return (self.new - 1) / self.decode_s if self.new > 1 and self.decode_s else 0.0


@dataclass
class Generation:
    """What came out: token ids, and why it ended ("stop", "length" or "context")."""

    tokens: list[int] = field(default_factory=list)
    finish: str = "length"
    timing: Timing = field(default_factory=Timing)
    drafted: int = 0  # tokens that were guessed ahead
    accepted: int = 0  # of them, those that were right


def generate_tokens(
    session: Session,
    prompt: Sequence[int],
    most: int,
    sampling: Sampling,
    eos: frozenset[int] = frozenset(),
    made: Generation | None = None,
    drafter: Drafter | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Tokens behind `prompt`, which is appended to what the session holds; the end token is not given. `made` is filled in.

    A `drafter` has seen all that the session holds.
    """
    sampler, made = Sampler(sampling), made or Generation()
    if drafter:
        drafter.begin(session.position, prompt)
    seen = list(prompt)
    start = time.perf_counter()
    logits = session.feed(prompt)[-1]
    made.timing.prompt, made.timing.prefill_s = len(prompt), time.perf_counter() - start
    start, room, step = time.perf_counter(), session.context - session.position, Stepper(session, drafter)
    try:
        for _ in range(most):
            token = sampler.pick(logits, seen)
            if token in eos:
                made.finish = "stop"
                return
            made.tokens.append(token)
            seen.append(token)
            made.timing.new, made.timing.decode_s = len(made.tokens), time.perf_counter() - start
            yield token, made
            if len(made.tokens) > room:
                made.finish = "context"
                return
            if len(made.tokens) < most:
                logits = step(token, most - len(made.tokens))
    finally:
        step.finish()
        made.drafted, made.accepted = step.guesses, step.hits


def generate_text(
    session: Session,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    most: int = 256,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    drafter: Drafter | None = None,
) -> Iterator[tuple[str, Generation]]:
    """Pieces of text behind the tokens of `prompt`. Text that might begin a stop string is held back until it is known not to."""
    stream, held = tokenizer.stream(), ""
    made = Generation()
    for token, _ in generate_tokens(session, prompt, most, sampling or Sampling(), tokenizer.eos, made, drafter):
        held += stream.push(token)
        ends = [held.index(s) for s in stop if s in held]
        if ends:
            made.finish = "stop"
            yield held[: min(ends)], made
            return
        safe = len(held) - longest_overlap(held, stop)
        yield held[:safe], made
        held = held[safe:]
    yield held + stream.finish(), made


def longest_overlap(text: str, stop: Sequence[str]) -> int:
    """How many last characters of `text` could be the beginning of a stop string."""
    return max((n for s in stop for n in range(1, min(len(s), len(text) + 1)) if text.endswith(s[:n])), default=0)
