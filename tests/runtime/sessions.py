"""Sessions for tests: one that says what it is told to, one that counts what it is fed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepseek_cli.runtime.session import Session, check_room
from deepseek_cli.runtime.tokenizer import Tokenizer
from tests.toys import VOCABULARY, byte_tokenizer

END = 2
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"


def plain_tokenizer(template: str = TEMPLATE) -> Tokenizer:
    """A token a byte, so that any text is its own tokens."""
    return Tokenizer(byte_tokenizer(), "<s>", "</s>", frozenset({END}), template)


class Scripted:
    """Whatever it is fed, the next tokens are those of the script, and behind it the end token."""

    kv_bytes = 0

    def __init__(self, script: Sequence[int], context: int = 1000) -> None:
        self.script, self.context, self.position = list(script), context, 0
        self.fed: list[list[int]] = []

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        assert tokens, "a session is never fed nothing"
        check_room(self.position, len(tokens), self.context)
        self.position += len(tokens)
        self.fed.append(list(tokens))
        logits = np.zeros((1, VOCABULARY), np.float32)
        logits[0, self.script.pop(0) if self.script else END] = 1
        return logits

    def rewind(self, position: int) -> None:
        self.position = min(position, self.position)


class Counting:
    """Another session, and how many tokens each call fed it."""

    def __init__(self, session: Session) -> None:
        self.session, self.context, self.counts = session, session.context, list[int]()

    @property
    def position(self) -> int:
        return self.session.position

    @property
    def kv_bytes(self) -> int:
        return self.session.kv_bytes

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        self.counts.append(len(tokens))
        return self.session.feed(tokens, keep)

    def rewind(self, position: int) -> None:
        self.session.rewind(position)
