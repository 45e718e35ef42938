"""Completions of plain text, and embeddings: prompts as they are, without a chat template."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.serve.bodies import LAST_EVENT, event, text_logprobs, usage
from deepseek_cli.serve.failures import Refused
from deepseek_cli.serve.job import End, Piece, Scored
from deepseek_cli.serve.schema import Asked, CompletionRequest, EmbeddingsRequest, GenerateRequest
from deepseek_cli.serve.service import Answers, Service, Wish


def sampling_of(request: Asked) -> dict[str, Any]:
    """What a Wish takes from either kind of request; null means the default."""
    sampling = Sampling(
        1.0 if request.repetition_penalty is None else request.repetition_penalty,
        1.0 if request.temperature is None else request.temperature,
        request.top_k or 0,
        1.0 if request.top_p is None else request.top_p,
        request.min_p or 0.0,
        request.seed,
    )
    return {
        "sampling": sampling,
        "most": request.max_tokens,
        "count": request.n or 1,
        "stop": request.stops,
        "frequency": request.frequency_penalty or 0.0,
        "presence": request.presence_penalty or 0.0,
        "endless": bool(request.ignore_eos),
        "bias": {int(token): bias for token, bias in (request.logit_bias or {}).items()},
    }


async def tokens_of(service: Service, asked: str | list[Any]) -> list[list[int]]:
    """Each prompt's tokens; one that is given as tokens is taken as it is."""
    if isinstance(asked, list) and isinstance(asked[0], int):
        return [asked]
    texts = [asked] if isinstance(asked, str) else asked
    return [await asyncio.to_thread(service.tokenizer.encode, text, True) for text in texts]


@dataclass
class Completion:
    """One request under way."""

    service: Service
    request: CompletionRequest
    answers: Answers
    prompt: list[int]
    ends: list[End] = field(default_factory=list)
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")

    async def whole(self) -> dict[str, Any]:
        texts = [self._echo() for _ in self.answers.jobs]
        scored: list[list[Scored]] = [[] for _ in texts]
        reasons: dict[int, str] = {}
        async for place, happened in self.answers.events():
            if isinstance(happened, Piece):
                texts[place] += happened.text
                scored[place] += [happened.scored] if happened.scored else []
            elif isinstance(happened, End):
                self.ends.append(happened)
                reasons[place] = happened.reason
        choices = [self._choice(i, text, reasons[i], scored[i]) for i, text in enumerate(texts)]
        return self._frame(choices) | {"usage": usage(len(self.prompt), self.ends)}

    async def stream(self) -> AsyncIterator[bytes]:
        if self.request.echo:
            for place in range(len(self.answers.jobs)):
                yield event(self._frame([self._choice(place, self._echo(), None, [])]))
        async for place, happened in self.answers.events():
            if isinstance(happened, Piece):
                scored = [happened.scored] if happened.scored else []
                if happened.text or scored:
                    yield event(self._frame([self._choice(place, happened.text, None, scored)]))
            elif isinstance(happened, End):
                self.ends.append(happened)
                yield event(self._frame([self._choice(place, "", happened.reason, [])]))
        options = self.request.stream_options
        if options and options.include_usage:
            yield event(self._frame([]) | {"usage": usage(len(self.prompt), self.ends)})
        yield LAST_EVENT

    def _echo(self) -> str:
        return self.service.tokenizer.decode(self.prompt) if self.request.echo else ""

    def _choice(self, place: int, text: str, reason: str | None, scored: list[Scored]) -> dict[str, Any]:
        logprobs = text_logprobs(scored, self.service.tokenizer, len(self._echo())) if scored else None
        return {"index": place, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        frame = {"id": self.id, "object": "text_completion", "created": self.created}
        return {**frame, "model": self.service.name, "choices": choices}


async def open_completion(service: Service, request: CompletionRequest, client: str) -> Completion:
    """Raises Refused for what the model or this server cannot do."""
    service.check_model(request.model)
    prompts = await tokens_of(service, request.prompt)
    if len(prompts) > 1:
        raise Refused(400, "Send one prompt a request; they are computed together all the same.", param="prompt")
    wish = Wish(**sampling_of(request), scores=request.logprobs)
    answers = await service.answer(prompts[0], wish, client, "prompt")
    return Completion(service, request, answers, prompts[0])


async def generate(service: Service, request: GenerateRequest, client: str) -> dict[str, Any]:
    """The plainest way to ask: greedy, in one piece."""
    (prompt,) = await tokens_of(service, request.prompt)
    answers = await service.answer(prompt, Wish(Sampling(), request.max_length), client, "prompt")
    pieces = [happened.text async for _, happened in answers.events() if isinstance(happened, Piece)]
    return {"output": "".join(pieces)}


async def embed(service: Service, request: EmbeddingsRequest, client: str) -> dict[str, Any]:
    """The mean of each text's last hidden states, of length 1."""
    service.check_model(request.model)
    prompts = await tokens_of(service, request.input)
    found: dict[int, np.ndarray] = {}
    answers = await service.read(prompts, client)
    async for place, happened in answers.events():
        if isinstance(happened, End) and happened.hidden is not None:
            found[place] = happened.hidden / np.linalg.norm(happened.hidden)
    written = [_written(found[place], request.encoding_format) for place in range(len(prompts))]
    count = sum(map(len, prompts))
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(written)],
        "model": service.name,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def _written(vector: np.ndarray, form: str | None) -> str | list[float]:
    little_endian = vector.astype("<f4")
    return base64.b64encode(little_endian.tobytes()).decode() if form == "base64" else little_endian.tolist()
