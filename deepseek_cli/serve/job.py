"""One request as the engine sees it: tokens in, events out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deepseek_cli.runtime.generate import longest_overlap
from deepseek_cli.runtime.sampling import Sampler, Sampling
from deepseek_cli.runtime.tokenizer import Tokenizer
from deepseek_cli.serve.grammar import Grammar


@dataclass(frozen=True, slots=True)
class Scored:
    """A token, the logarithm of its probability, and the likeliest ones with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token brought: text, which may be held back until it is certain, and its score where that was asked for."""

    text: str
    scored: Scored | None = None


@dataclass(frozen=True, slots=True)
class End:
    """`reason` is "stop", "length" or "timeout"; `reused` tokens of the prompt were in the cache already."""

    reason: str
    new: int = 0
    reused: int = 0
    hidden: np.ndarray | None = None  # mean last hidden state of the prompt, float32 [hidden]


@dataclass(frozen=True, slots=True)
class Failed:
    error: Exception


Event = Piece | End | Failed


class Picker:
    """Chooses tokens for one answer. `scores` asks for the score of each, beside so many of the likeliest."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int] = (),
        *,
        frequency: float = 0.0,
        presence: float = 0.0,
        bias: Mapping[int, float] | None = None,
        grammar: Grammar | None = None,
        scores: int | None = None,
    ) -> None:
        self.sampler, self.frequency, self.presence = Sampler(sampling), frequency, presence
        self.bias, self.grammar, self.scores = bias or {}, grammar, scores
        self.seen, self.counts = list(prompt), Counter[int]()

    def pick(self, logits: np.ndarray) -> tuple[int, Scored | None]:
        """The next token from float32 logits [vocabulary], which stay as they are."""
        raw = logits
        if self.grammar or self.bias or (self.counts and (self.frequency or self.presence)):
            logits = logits.copy()
            for token, bias in self.bias.items():
                logits[token] += bias
            for token, count in self.counts.items():
                logits[token] -= self.frequency * count + self.presence
            if self.grammar:
                self.grammar.mask(logits)
        token = self.sampler.pick(logits, self.seen)
        if self.grammar:
            self.grammar.accept(token)
        self.seen.append(token)
        self.counts[token] += 1
        return token, None if self.scores is None else score(raw, token, self.scores)


def score(logits: np.ndarray, token: int, count: int) -> Scored:
    high = logits.max()
    logprobs = logits - high - np.log(np.exp(logits - high).sum())
    best = np.argpartition(logits, -count)[-count:] if count else np.array([], np.int64)
    top = sorted(((int(i), float(logprobs[i])) for i in best), key=lambda pair: -pair[1])
    return Scored(token, float(logprobs[token]), tuple(top))


class Writer:
    """Tokens to text up to a stop string. What may begin one is held back until it is known not to.

    `shown` are special tokens that are text here, such as those around a tool call.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), shown: frozenset[int] = frozenset()) -> None:
        self.stream, self.stop, self.held, self.stopped = tokenizer.stream(), stop, "", False
        self.stream.hidden -= shown

    def push(self, token: int) -> str:
        self.held += self.stream.push(token)
        ends = [self.held.index(s) for s in self.stop if s in self.held]
        if ends:
            self.stopped = True
            return self.held[: min(ends)]
        return self._take(len(self.held) - longest_overlap(self.held, self.stop))

    def finish(self) -> str:
        return "" if self.stopped else self._take(len(self.held)) + self.stream.finish()

    def _take(self, count: int) -> str:
        text, self.held = self.held[:count], self.held[count:]
        return text


@dataclass(eq=False)
class Job:
    """Without a picker and a writer the prompt is only read, for its hidden states. `sink` gets the events, on the side of
    whoever asked; `cancelled` is for them to set, and the slot is free a step later."""

    prompt: tuple[int, ...]
    most: int  # tokens to generate
    sink: Callable[[Event], object]
    picker: Picker | None = None
    writer: Writer | None = None
    client: str = ""
    eos: frozenset[int] = frozenset()
    deadline: float = float("inf")  # of time.monotonic
    cancelled: bool = False
    created: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        """The most that it will hold."""
        return len(self.prompt) + self.most
