"""Connections that only take up room: one without a request is closed after a while, at once where another needs its place."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from deepseek_cli.serve.failures import Refused

CONNECTIONS = 1024
HEAD_SECONDS = 10.0  # to send a request's head


class Patient(H11Protocol):
    """uvicorn's own would wait for a head for ever, and refuse everybody else meanwhile."""

    opened = 0.0
    given_up = False
    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.opened = self.loop.time()
        self._expect_head()
        if len(self.connections) > CONNECTIONS:
            held = [other for other in self.connections if isinstance(other, Patient) and not other.given_up]
            if len(held) > CONNECTIONS:  # this one is the last to go, and is where all others have a request
                min(held, key=lambda other: (not other.idle, other is self, other.opened)).give_up()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.idle and self.late is None:
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP, as any other refusal is worded."""
        body = json.dumps(Refused(400, msg, code="invalid_http").body).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def idle(self) -> bool:
        """No request of it is being answered."""
        return self.transport.is_closing() or self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        self.late = self.loop.call_later(HEAD_SECONDS, self._look, self.cycle)

    def _look(self, cycle: Any) -> None:
        self.late = None
        if self.idle and self.cycle is cycle:
            self.give_up()
        elif self.idle:
            self._expect_head()

    def give_up(self) -> None:
        self.given_up = True
        self.transport.abort()
