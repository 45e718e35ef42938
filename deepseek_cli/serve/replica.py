"""One engine as Ray Serve holds it: requests come as ASGI scopes with their bodies, and answers leave as ASGI messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.types import Message, Scope

FACTS = "deepseek.facts"  # the type of the last message: what the gate writes down


class Replica:
    """Raises what opening the bundle raises, and where this machine has another version of the package."""

    def __init__(self, version: str, folder: str, told: dict[str, Any]) -> None:
        from deepseek_cli.cluster import check_version
        from deepseek_cli.handle import open_any
        from deepseek_cli.memory import capped
        from deepseek_cli.serve.app import make_application
        from deepseek_cli.serve.server import open_service
        from deepseek_cli.store import Store

        check_version(version)
        self.cap = contextlib.ExitStack()  # for as long as the worker lives; Ray Serve replaces one that ends
        if told["memory"]:
            self.cap.enter_context(capped(told["memory"]))
        self.service = open_service(open_any(folder, Store(Path(folder))), **told)
        self.app = make_application(self.service)
        self.service.start()

    async def __call__(self, scope: Scope, body: bytes) -> AsyncIterator[list[Message]]:
        """Messages as they come, those that came meanwhile together. Who leaves the loop early has hung up."""
        from deepseek_cli.serve.gate import replayed

        sent: asyncio.Queue[Message | None] = asyncio.Queue()
        left = asyncio.Event()

        async def hung_up() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        async def answer() -> None:
            try:
                await self.app(scope, replayed(body, hung_up), sent.put)
            finally:
                facts = scope["state"].get("facts", {})
                await sent.put({"type": FACTS, "facts": facts, "routed": "endpoint" in scope})
                await sent.put(None)

        task = asyncio.create_task(answer())
        try:
            while batch := await _all_of(sent):
                yield batch
        finally:
            left.set()
            await task

    def check_health(self) -> None:
        """Asked by Ray Serve, again and again. Raises RuntimeError where the engine has ended."""
        if not self.service.engine.is_alive():
            raise RuntimeError("the engine has ended")

    def measured(self) -> tuple[str, list[Any]]:
        """Its name, and what Prometheus would read of it."""
        from ray import serve

        return serve.get_replica_context().replica_id.unique_id, list(self.service.metrics.registry.collect())


async def _all_of(queue: asyncio.Queue[Message | None]) -> list[Message]:
    """What waits there, at least one; [] behind the end."""
    found = [await queue.get()]
    while not queue.empty():
        found.append(queue.get_nowait())
    if found[-1] is None and len(found) > 1:
        queue.put_nowait(None)
    return [message for message in found if message is not None]
