"""A conversation: messages through the model's template into a session, whose KV cache keeps what both turns share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import Bundle, ModelHandle
from deepseek_cli.runtime.generate import Generation, generate_text
from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.runtime.session import Session, check_room, open_session
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer


@dataclass
class Chat:
    """With `raw` a prompt is continued as it is, and nothing is remembered."""

    session: Session
    tokenizer: Tokenizer
    sampling: Sampling
    most: int
    stop: Sequence[str]
    raw: bool
    messages: list[dict[str, str]] = field(default_factory=list)
    fed: list[int] = field(default_factory=list)  # tokens in the session's cache
    last: Generation = field(default_factory=Generation)

    def ask(self, prompt: str) -> Iterator[str]:
        """Pieces of the answer.

        Raises UsageError when there is nothing to continue, or the conversation does not fit in the context.
        """
        asked = [*self.messages, {"role": "user", "content": prompt}]
        tokens = self.tokenizer.encode(prompt, special=True) if self.raw else self.tokenizer.encode(self.tokenizer.chat(asked))
        if not tokens:
            raise UsageError("The prompt is empty.", hint="Write something to continue.")
        check_room(0, len(tokens) + 1, self.session.context)
        shared = shared_prefix(tokens[:-1], self.fed)  # the last token is fed again, for its logits
        self.session.rewind(shared)
        self.fed = self.fed[:shared]  # all that holds if this turn is broken off
        pieces = []
        for piece, generation in generate_text(
            self.session, self.tokenizer, tokens[shared:], self.most, self.sampling, self.stop
        ):
            self.last = generation
            pieces.append(piece)
            yield piece
        self.fed = (tokens + self.last.tokens)[: self.session.position]
        if not self.raw:
            self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]  # a turn that failed is not remembered

    def last_record(self) -> dict[str, Any]:
        """Counts and rates of the last answer, for `--json`."""
        timing = self.last.timing
        return {
            "finish": self.last.finish,
            "prompt_tokens": timing.prompt,
            "new_tokens": timing.new,
            "prefill_tokens_per_s": timing.prefill_rate,
            "decode_tokens_per_s": timing.decode_rate,
        }


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def open_chat(
    model: ModelHandle | Bundle,
    sampling: Sampling,
    most: int,
    stop: Sequence[str] = (),
    system: str | None = None,
    raw: bool = False,
    *,
    context: int | None = None,
    threads: int | None = None,
    device: str = "auto",
) -> Chat:
    session = open_session(model, context=context, threads=threads, device=device)
    messages = [{"role": "system", "content": system}] if system else []
    return Chat(session, open_tokenizer(model.root), sampling, most, stop, raw, messages)
