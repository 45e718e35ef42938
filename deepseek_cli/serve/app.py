"""The routes, and what a client is told when something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse

from deepseek_cli import __version__
from deepseek_cli.errors import DeepseekError
from deepseek_cli.serve.bodies import Json, event
from deepseek_cli.serve.chat import Chat, open_chat
from deepseek_cli.serve.failures import Refused
from deepseek_cli.serve.gate import Gate, Limits, Log
from deepseek_cli.serve.keys import Key
from deepseek_cli.serve.page import CSP, PAGE
from deepseek_cli.serve.plain import Completion, embed, generate, open_completion
from deepseek_cli.serve.schema import ChatRequest, CompletionRequest, EmbeddingsRequest, GenerateRequest, Refusal
from deepseek_cli.serve.service import Service

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": words}
    for status, words in (
        (400, "What was sent is wrong; `param` says where"),
        (401, "No valid key"),
        (403, "The key may not do that, or another host was named"),
        (404, "No such model"),
        (408, "Out of time"),
        (413, "Too large"),
        (429, "Too many requests; see Retry-After"),
    )
}


def make_app(service: Service, keys: Sequence[Key], limits: Limits, log: Log) -> Gate:
    return Gate(make_application(service), keys, limits, service.metrics, log)


def make_application(service: Service) -> FastAPI:
    """What stands behind the gate."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(title="deepseek serve", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    _handle_errors(app)
    _add_questions(app, service)
    _add_state(app, service)
    document = app.openapi

    def documented() -> dict[str, Any]:
        """Without FastAPI's own 422, in whose place 400 is said."""
        found = document()
        for path in found["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return found

    app.openapi = documented  # type: ignore[method-assign]
    return app


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", responses=REFUSALS)
    async def chat_completions(request: ChatRequest, http: Request) -> Response:
        return await _answered(http, await open_chat(service, request, http.state.client), bool(request.stream))

    @app.post("/v1/completions", responses=REFUSALS)
    async def completions(request: CompletionRequest, http: Request) -> Response:
        return await _answered(http, await open_completion(service, request, http.state.client), bool(request.stream))

    @app.post("/v1/embeddings", responses=REFUSALS)
    async def embeddings(request: EmbeddingsRequest, http: Request) -> Response:
        return Json(await _unless_gone(http, embed(service, request, http.state.client)))

    @app.post("/generate", responses=REFUSALS)
    async def plain(request: GenerateRequest, http: Request) -> Response:
        return Json(await _unless_gone(http, generate(service, request, http.state.client)))


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", responses=REFUSALS)
    async def models() -> dict[str, Any]:
        model = {"id": service.name, "object": "model", "created": service.created, "owned_by": "deepseek-cli"}
        return {"object": "list", "data": [model]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"description": "Not yet, or not any more"}})
    async def ready() -> Response:
        able = service.ready and service.engine.is_alive()
        return Json({"status": "ready" if able else "not ready"}, 200 if able else 503)

    @app.get("/metrics", responses=REFUSALS)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        headers = {"content-security-policy": CSP, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
        return HTMLResponse(PAGE, headers=headers)


def _handle_errors(app: FastAPI) -> None:
    async def refused(request: Request, error: Any) -> Response:
        return _refusal(error)

    async def invalid(request: Request, error: Any) -> Response:
        first = error.errors()[0]
        broken = first["type"] == "json_invalid"
        place = [] if broken else [str(part) for part in first["loc"] if part != "body"]
        wrong = "not valid JSON" if broken else first["msg"]
        return _refusal(Refused(400, f"{'.'.join(place) or 'body'}: {wrong}"[:500], param=".".join(place)[:200] or None))

    async def known(request: Request, error: Any) -> Response:
        code = error.code if isinstance(error, DeepseekError) else None
        return _refusal(Refused(400, str(error), code=code))

    async def http(request: Request, error: Any) -> Response:
        return Json(Refused(error.status_code, str(error.detail)).body, error.status_code, error.headers)

    async def bug(request: Request, error: Any) -> Response:
        return _refusal(Refused(500, "The server failed at this request.", code="internal_error"))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(DeepseekError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)


def _refusal(error: Refused) -> Response:
    return Json(error.body, error.status, error.headers)


async def _answered(http: Request, asked: Chat | Completion, streams: bool) -> Response:
    if streams:
        events = _until_it_fails(http, asked)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
    body = await _unless_gone(http, asked.whole())
    http.state.facts = _counts(asked)
    return Json(body)


async def _until_it_fails(http: Request, asked: Chat | Completion) -> AsyncIterator[bytes]:
    """The stream has begun: what goes wrong now can only be its last event."""
    stream = asked.stream()
    try:
        async for chunk in stream:
            yield chunk
    except (Refused, DeepseekError) as error:
        yield event((error if isinstance(error, Refused) else Refused(400, str(error), code=error.code)).body)
    except Exception:
        yield event(Refused(500, "The server failed at this request.", code="internal_error").body)
    finally:
        asked.answers.cancel()
        http.state.facts = _counts(asked)


def _counts(asked: Chat | Completion) -> dict[str, int]:
    """For the log."""
    prompt = asked.prompt if isinstance(asked.prompt, int) else len(asked.prompt)
    return {"prompt_tokens": prompt, "new_tokens": sum(end.new for end in asked.ends)}


async def _unless_gone(http: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The work's result; it is given up as soon as nobody waits for it any more."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(499, "The client left.", code="client_left")
        return task.result()
    finally:
        task.cancel()
        left.cancel()


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
