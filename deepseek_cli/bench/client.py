"""A client of any server that speaks OpenAI's API: what it asks, and when each piece of an answer came."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from deepseek_cli.bench.load import Load
from deepseek_cli.errors import ModelNotFound, NetworkError

SECONDS = 600.0  # that one request may take
FAILURES = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError)
NO_EVENT = (ValueError, TypeError, AttributeError, KeyError, IndexError)  # of JSON that is none, or has another form


@dataclass(frozen=True, slots=True)
class Reply:
    """Times in seconds. `gaps` lie between pieces of text, which most servers send a token each. `error` is why there is none."""

    first: float = 0.0
    whole: float = 0.0
    gaps: tuple[float, ...] = ()
    prompt: int = 0  # tokens, as the server counts them
    new: int = 0
    text: str = ""
    error: str = ""

    @property
    def gap(self) -> float:
        """Mean time of a token behind the first."""
        return (self.whole - self.first) / max(1, self.new - 1)


@dataclass(frozen=True, slots=True)
class Round:
    """What became of one load: its replies in the order they were asked, and the seconds it took."""

    replies: tuple[Reply, ...]
    seconds: float

    @property
    def answers(self) -> tuple[Reply, ...]:
        return tuple(reply for reply in self.replies if not reply.error)

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(reply.error for reply in self.replies if reply.error)


def api_of(url: str) -> str:
    """The address of the API, with or without /v1 in `url`."""
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def connected(key: str = "", connections: int = 1024) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx2.AsyncClient(timeout=SECONDS, limits=limits, headers=headers, follow_redirects=False)


async def model_at(client: httpx2.AsyncClient, url: str) -> str:
    """The first model that a server names. Raises NetworkError where none answers there, ModelNotFound where it has none."""
    try:
        answer = await client.get(f"{api_of(url)}/models")
    except FAILURES as error:
        hint = "Is a server running there? deepseek serve MODEL starts one."
        reason = str(error) or type(error).__name__
        raise NetworkError("Nothing answers at {url}: {reason}", hint=hint, url=url, reason=reason) from None
    if answer.status_code in (401, 403):
        hint = "Say where the key is: --set api_key_file=FILE"
        raise NetworkError("{url} refuses to answer ({status}).", hint=hint, url=url, status=answer.status_code)
    if answer.status_code != 200:
        hint = "Name the address of one that does, such as http://127.0.0.1:8000."
        words = "{url} does not speak OpenAI's API: /v1/models is {status} there."
        raise NetworkError(words, hint=hint, url=url, status=answer.status_code)
    try:
        return str(answer.json()["data"][0]["id"])
    except NO_EVENT:
        raise ModelNotFound("The server at {url} has no model.", hint="Load one there.", url=url) from None


async def ask(client: httpx2.AsyncClient, url: str, body: Mapping[str, Any], most_pieces: int | None = None) -> Reply:
    """One streamed completion. With `most_pieces` the client leaves behind so many.

    Events are read once the last has come: until then the server wants the processor.
    """
    began, came = time.perf_counter(), list[tuple[float, bytes]]()
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", f"{api_of(url)}/completions", json=body) as answer:
            if answer.status_code != 200:
                return Reply(error=f"{answer.status_code}: {_reason(await answer.aread())}")
            async for part in answer.aiter_bytes():
                came.append((time.perf_counter() - began, part))
                if most_pieces is not None and len(list(_pieces(came))) >= most_pieces:
                    break
        return _reply(came, time.perf_counter() - began)
    except FAILURES as error:
        return Reply(error=f"the connection broke: {str(error) or type(error).__name__}")
    except NO_EVENT:
        return Reply(error="what was sent is no stream of completions")


def _reply(parts: list[tuple[float, bytes]], whole: float) -> Reply:
    chunks = [chunk for _, chunk in _chunks(parts)]
    if wrong := next((chunk for chunk in chunks if chunk.get("error")), None):
        return Reply(error=_reason(json.dumps(wrong).encode()))
    pieces = list(_pieces(parts))
    came = [at for at, _ in pieces]
    usage: dict[str, Any] = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), {})
    gaps = tuple(b - a for a, b in itertools.pairwise(came))
    new, prompt = int(usage.get("completion_tokens") or len(came)), int(usage.get("prompt_tokens") or 0)
    text = "".join(text for _, text in pieces)
    return Reply(came[0] if came else whole, came[-1] if came else whole, gaps, prompt, new, text)


def _pieces(parts: list[tuple[float, bytes]]) -> Iterator[tuple[float, str]]:
    """What there is of text, and when it came."""
    for at, chunk in _chunks(parts):
        if text := "".join(choice.get("text") or "" for choice in chunk.get("choices") or ()):
            yield at, text


def _chunks(parts: list[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Of server-sent events, each one line of JSON in this API, and when its end came."""
    line = b""
    for at, part in parts:
        *whole, line = (line + part).split(b"\n")
        for data in (each.removeprefix(b"data:").strip() for each in whole if each.startswith(b"data:")):
            if data and data != b"[DONE]":
                yield at, json.loads(data)


def _reason(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:200]
    except NO_EVENT:
        return body.decode(errors="replace")[:200].strip() or "without a word"


async def drive(client: httpx2.AsyncClient, url: str, load: Load, bodies: list[dict[str, Any]], seed: int) -> Round:
    """Ask all `bodies` as the load says; `seed` is of the times at which they come."""
    replies = [Reply()] * len(bodies)

    async def one(place: int) -> None:
        replies[place] = await ask(client, url, bodies[place])

    async def visitor(places: itertools.count) -> None:
        while (place := next(places)) < len(bodies):
            await one(place)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        if load.rate:
            arrivals, at = random.Random(seed), began
            for place in range(len(bodies)):
                at += arrivals.expovariate(load.rate)
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                group.create_task(one(place))
        else:
            places = itertools.count()
            for _ in range(load.clients):
                group.create_task(visitor(places))
    return Round(tuple(replies), time.perf_counter() - began)
