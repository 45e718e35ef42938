"""Answers that follow a JSON schema: which tokens may come next, by llguidance."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from deepseek_cli.errors import UsageError
from deepseek_cli.runtime.tokenizer import Tokenizer

MAX_SCHEMA_CHARACTERS = 1 << 16
ANY_OBJECT = {"type": "object"}


class Grammar:
    """One answer's way through a grammar."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self.matcher, self.bits = matcher, np.zeros((1, -(-vocabulary // 32)), np.int32)

    def mask(self, logits: np.ndarray) -> None:
        """-inf for what may not come next, in place."""
        from llguidance.numpy import apply_token_bitmask_inplace, fill_next_token_bitmask

        fill_next_token_bitmask(self.matcher, self.bits)
        if self.matcher.is_error():
            raise UsageError("The schema cannot be followed further: {reason}", reason=self.matcher.get_error())
        apply_token_bitmask_inplace(logits, self.bits)

    def accept(self, token: int) -> None:
        self.matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self.matcher.is_stopped())


class Grammars:
    """Makes grammars for one tokenizer, whose tables are built when the first is asked for."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.tables: Any = None

    def follow(self, schema: Any) -> Grammar:
        """Raises UsageError for what is no schema, or none that can be compiled."""
        from llguidance import LLMatcher, LLTokenizer

        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA_CHARACTERS:
            raise UsageError("The schema is longer than {most} characters.", most=MAX_SCHEMA_CHARACTERS)
        if self.tables is None:
            ends = sorted(self.tokenizer.eos) or None
            self.tables = LLTokenizer(self.tokenizer.fast.to_str(), n_vocab=self.vocabulary, eos_token=ends)
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": r"[ \n]{0,2}"})
            matcher = LLMatcher(self.tables, grammar, log_level=0)
        except Exception as error:  # the library raises what its parser does
            raise _uncompiled(str(error)) from None
        if matcher.is_error():
            raise _uncompiled(matcher.get_error())
        return Grammar(matcher, self.vocabulary)


def _uncompiled(reason: str) -> UsageError:
    return UsageError("The schema cannot be compiled: {reason}", reason=reason.split("\n")[0])
