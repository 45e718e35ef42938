"""Answers in the words of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

from deepseek_cli.runtime.tokenizer import Tokenizer
from deepseek_cli.serve.job import End, Scored


def usage(prompt: int, ends: Sequence[End]) -> dict[str, Any]:
    new = sum(end.new for end in ends)
    cached = {"cached_tokens": max((end.reused for end in ends), default=0)}
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new, "prompt_tokens_details": cached}


def chat_logprobs(scored: Sequence[Scored], tokenizer: Tokenizer) -> dict[str, Any]:
    def one(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.token(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode(errors="replace"))}

    return {"content": [one(s.token, s.logprob) | {"top_logprobs": [one(*pair) for pair in s.top]} for s in scored]}


def text_logprobs(scored: Sequence[Scored], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """Of plain completions; `offset` is where the first token's text begins."""
    tokens, offsets = [tokenizer.token(s.token) for s in scored], []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [s.logprob for s in scored],
        "top_logprobs": [{tokenizer.token(token): logprob for token, logprob in reversed(s.top)} for s in scored],
        "text_offset": offsets,
    }


written = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def event(body: Any) -> bytes:
    """One of a stream of server-sent events."""
    return b"data: " + written(body).encode(errors="replace") + b"\n\n"


LAST_EVENT = b"data: [DONE]\n\n"


class Json(JSONResponse):
    """Text that is no valid Unicode, as JSON may escape it, is no error."""

    def render(self, content: Any) -> bytes:
        return written(content).encode(errors="replace")
