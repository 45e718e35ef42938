"""Chat completions: messages through the model's template, and its answer read back into thinking, text and tool calls."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from deepseek_cli.runtime.chat_session import thinking_variables
from deepseek_cli.runtime.thinking import Splitter, opens_thinking
from deepseek_cli.serve.bodies import LAST_EVENT, chat_logprobs, event, usage
from deepseek_cli.serve.failures import Refused
from deepseek_cli.serve.grammar import ANY_OBJECT
from deepseek_cli.serve.job import End, Piece, Scored
from deepseek_cli.serve.plain import sampling_of
from deepseek_cli.serve.schema import ChatRequest, Message
from deepseek_cli.serve.service import Answers, Service, Wish
from deepseek_cli.serve.tools import Form, ToolReader, shown_tokens


@dataclass
class Reader:
    """One answer, piece by piece. `delta` gives what is new in the words of the API."""

    splitter: Splitter
    tools: ToolReader | None
    content: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)

    def push(self, piece: Piece) -> dict[str, Any]:
        if piece.scored:
            self.scored.append(piece.scored)
        thought, text = self.splitter.push(piece.text)
        return self._delta(thought, self.tools.push(text) if self.tools else text)

    def finish(self) -> dict[str, Any]:
        thought, text = self.splitter.finish()
        if self.tools:
            text = self.tools.push(text)
            rest, self.calls = self.tools.finish()
            text += rest
        calls = {"tool_calls": [{"index": i, **call} for i, call in enumerate(self.calls)]} if self.calls else {}
        return self._delta(thought, text) | calls

    def message(self) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant", "content": self.content if self.content or not self.calls else None}
        if self.thinking:
            said["reasoning_content"] = self.thinking
        if self.calls:
            said["tool_calls"] = self.calls
        return said

    def _delta(self, thought: str, text: str) -> dict[str, Any]:
        self.thinking += thought
        self.content += text
        return ({"reasoning_content": thought} if thought else {}) | ({"content": text} if text else {})


@dataclass
class Chat:
    """One request under way."""

    service: Service
    request: ChatRequest
    answers: Answers
    readers: list[Reader]
    prompt: int  # tokens
    ends: list[End] = field(default_factory=list)
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")

    async def whole(self) -> dict[str, Any]:
        reasons: dict[int, str] = {}
        async for place, happened in self.answers.events():
            if isinstance(happened, Piece):
                self.readers[place].push(happened)
            elif isinstance(happened, End):
                self.readers[place].finish()
                reasons[place] = self._ended(place, happened)
        choices = [
            {
                "index": place,
                "message": reader.message(),
                "logprobs": self._logprobs(reader.scored),
                "finish_reason": reasons[place],
            }
            for place, reader in enumerate(self.readers)
        ]
        return self._frame("chat.completion", choices) | {"usage": usage(self.prompt, self.ends)}

    async def stream(self) -> AsyncIterator[bytes]:
        for place in range(len(self.readers)):
            yield self._chunk(place, {"role": "assistant", "content": ""})
        async for place, happened in self.answers.events():
            reader = self.readers[place]
            if isinstance(happened, Piece):
                delta = reader.push(happened)
                if delta or happened.scored:
                    yield self._chunk(place, delta, scored=[happened.scored] if happened.scored else [])
            elif isinstance(happened, End):
                if rest := reader.finish():
                    yield self._chunk(place, rest)
                yield self._chunk(place, {}, self._ended(place, happened))
        options = self.request.stream_options
        if options and options.include_usage:
            yield event(self._frame("chat.completion.chunk", []) | {"usage": usage(self.prompt, self.ends)})
        yield LAST_EVENT

    def _ended(self, place: int, end: End) -> str:
        self.ends.append(end)
        return "tool_calls" if self.readers[place].calls else end.reason

    def _chunk(self, place: int, delta: dict[str, Any], reason: str | None = None, scored: list[Scored] | None = None) -> bytes:
        choice = {"index": place, "delta": delta, "logprobs": self._logprobs(scored or []), "finish_reason": reason}
        return event(self._frame("chat.completion.chunk", [choice]))

    def _logprobs(self, scored: list[Scored]) -> dict[str, Any] | None:
        return chat_logprobs(scored, self.service.tokenizer) if self.request.logprobs and scored else None

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.service.name, "choices": choices}


async def open_chat(service: Service, request: ChatRequest, client: str) -> Chat:
    """Raises Refused for what the model or this server cannot do."""
    service.check_model(request.model)
    form = _form(service, request)
    tools = [tool.model_dump(exclude_none=True) for tool in request.tools or ()] if form else None
    variables: dict[str, Any] = {**({"tools": tools} if tools else {}), **thinking_variables(request.think)}
    messages = [_plain(message) for message in request.messages]
    text = await asyncio.to_thread(service.tokenizer.chat, messages, **variables)
    prompt = await asyncio.to_thread(service.tokenizer.encode_chat, text)
    schema = _schema(request)
    wish = Wish(
        **sampling_of(request),
        scores=(request.top_logprobs or 0) if request.logprobs else None,
        schema=schema,
        shown=shown_tokens(service.tokenizer, form) if form else frozenset(),
    )
    if request.max_completion_tokens:
        wish = replace(wish, most=request.max_completion_tokens)
    answers = await service.answer(prompt, wish, client, "messages")
    inside = opens_thinking(text) and schema is None  # an answer that follows a schema does so from its first token
    readers = [Reader(Splitter(inside), ToolReader(form) if form else None) for _ in answers.jobs]
    return Chat(service, request, answers, readers, len(prompt))


def _form(service: Service, request: ChatRequest) -> Form | None:
    """How tools are called in this conversation; None where none are given."""
    if not request.tools or request.tool_choice == "none":
        return None
    if service.form is None:
        raise Refused(400, f"The chat template of {service.name} knows no tools.", param="tools", code="unsupported")
    return service.form


def _schema(request: ChatRequest) -> Any:
    asked = request.response_format
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return ANY_OBJECT
    if asked.json_schema is None:
        raise Refused(400, "response_format.json_schema is missing.", param="response_format", code="missing_schema")
    return asked.json_schema.schema_


def _plain(message: Message) -> dict[str, Any]:
    """As templates read messages: content is text, and the arguments of a call are a mapping."""
    said = message.model_dump(exclude_none=True)
    content = message.content
    said["content"] = content if isinstance(content, str) else "".join(part.text for part in content or ())
    for call in said.get("tool_calls", ()):
        try:
            arguments = json.loads(call["function"]["arguments"] or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise Refused(400, "The arguments of a tool call are no JSON object.", param="messages", code="invalid_arguments")
        call["function"]["arguments"] = arguments
    return said
