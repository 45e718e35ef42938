"""What every request passes before the application: host, key, rate, size and pace of its body; and the log behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek_cli.serve.bodies import Json
from deepseek_cli.serve.failures import Refused
from deepseek_cli.serve.keys import Key, find_key
from deepseek_cli.serve.metrics import Metrics

OPEN = ("/", "/health", "/ready")  # that need no key
ADMIN = ("/metrics",)
LOGGED = 200  # characters of a path
LOCAL_NAMES = {"localhost", "127.0.0.1", "[::1]", "testserver"}
Log = Callable[[dict[str, Any]], object]


@dataclass(frozen=True, slots=True)
class Limits:
    body_bytes: int = 4 << 20
    body_seconds: float = 30.0  # to send a request's body
    send_seconds: float = 30.0  # to take what was sent, before the next piece
    requests: int = 256  # that are open at once


class Gate:
    """`keys` may be empty, where the server is only reached from this machine. Then it answers to the machine's own names
    alone: a page in somebody's browser must not reach it under another."""

    def __init__(self, app: ASGIApp, keys: Sequence[Key], limits: Limits, metrics: Metrics, log: Log) -> None:
        self.app, self.keys, self.limits, self.metrics, self.log = app, keys, limits, metrics, log
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, name = time.perf_counter(), 0, ""

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            async with asyncio.timeout(self.limits.send_seconds):
                await send(message)

        self.open += 1
        try:
            name = self._let_in(scope)
            scope.setdefault("state", {})["client"] = name
            body = await self._body(scope, receive)
            await self.app(scope, replayed(body, receive), noted)
        except Refused as refused:
            await Json(refused.body, refused.status, refused.headers)(scope, receive, noted)
        except (TimeoutError, OSError):
            pass  # whoever asked does not take the answer
        finally:
            self.open -= 1
            self._write_down(scope, name, status, time.perf_counter() - started)

    def _let_in(self, scope: Scope) -> str:
        """Who it is. Raises Refused."""
        headers, path = Headers(scope=scope), scope["path"]
        if self.open > self.limits.requests and path not in OPEN:
            raise Refused(429, "Too many requests are open.", code="overloaded", retry_after=1)
        address = str((scope.get("client") or ("",))[0])
        if not self.keys:
            if headers.get("host", "").rpartition(":")[0 if _has_port(headers.get("host", "")) else 2] not in LOCAL_NAMES:
                raise Refused(403, "Without keys, this server answers to this machine's own names only.", code="wrong_host")
            return address
        if path in OPEN:
            return address
        key = find_key(self.keys, headers.get("authorization", ""), "admin" if path in ADMIN else "use")
        key.spend()
        return key.name

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """All of it, before the application sees anything. Raises Refused (408, 413)."""
        too_large = Refused(413, f"A request may have {self.limits.body_bytes} bytes.", code="request_too_large")
        if int(_digits(Headers(scope=scope).get("content-length", "0"))) > self.limits.body_bytes:
            raise too_large
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise OSError("the client left")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self.limits.body_bytes:
                        raise too_large
        except TimeoutError:
            raise Refused(408, "The request's body took too long.", code="request_timeout") from None
        return bytes(body)

    def _write_down(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        """Who asked for what, and what became of it; never what it was about."""
        facts = scope.get("state", {}).get("facts", {})
        path = scope["path"][:LOGGED]
        self.metrics.answered(path if "endpoint" in scope else "other", status)  # of routes alone: there must be few
        record = {"time": round(time.time(), 3), "client": name, "method": scope["method"], "path": path, "status": status}
        self.log({**record, "seconds": round(seconds, 4), **facts})


def _has_port(host: str) -> bool:
    return host.rpartition("]")[2].count(":") == 1


def _digits(text: str) -> str:
    return text[:20] if text.isascii() and text.isdecimal() else "0"


def replayed(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body at once, then what comes behind it."""
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once
