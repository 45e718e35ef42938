"""From a bundle to a server that runs until it is told to stop, and then finishes what it began."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from deepseek_cli.errors import MemoryShort, ModelUnsupported, ResourceError, UsageError
from deepseek_cli.handle import Bundle, ModelHandle
from deepseek_cli.memory import free_bytes
from deepseek_cli.runtime.context import DEFAULT_CONTEXT, check_context
from deepseek_cli.runtime.machine_cache import MachineCache
from deepseek_cli.runtime.memory_plan import MemoryPlan
from deepseek_cli.runtime.packed_session import packed_for_batches
from deepseek_cli.runtime.session import planned
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.serve.connections import Patient
from deepseek_cli.serve.gate import Gate, Limits, Log
from deepseek_cli.serve.keys import Key
from deepseek_cli.serve.metrics import Metrics
from deepseek_cli.serve.seats import rows
from deepseek_cli.serve.service import Rules, Service
from deepseek_cli.serve.slots import Slots

AUTO_SLOTS = 16
SHARE = 0.5  # of what is free, where nothing says how much memory there is
SPARE_BYTES = 64_000_000  # of a cap, for what a step computes
MIN_TOKENS = 64  # that one request must be able to hold


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens, and for how long it finishes what it began."""

    host: str = "127.0.0.1"
    port: int = 8000
    drain_seconds: float = 30.0
    keys: tuple[Key, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def check(self) -> None:
        """Raises UsageError where others could reach it without a key."""
        if not (self.keys or self.loopback):
            raise UsageError(
                "--host {host} is reached from elsewhere, and there are no keys.",
                hint="Add --api-key-file FILE, with one key a line.",
                host=self.host,
            )

    @property
    def loopback(self) -> bool:
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def open_service(
    model: ModelHandle | Bundle,
    *,
    slots: int | None = None,
    context: int | None = None,
    memory: int | None = None,
    threads: int | None = None,
    rules: Rules | None = None,
    batch_int8: MachineCache | None = None,
) -> Service:
    """`memory` caps the process: what loading leaves of it is for the KV cache. Where there is a cache for `batch_int8`, prompts
    and answers of many at once run through a second form of the weights, kept there.

    A memory plan in its manifest is followed, but for its context where `context` says another.
    Raises what `require_cpu` raises, MemoryShort where not even a short request would fit; with `batch_int8` what open_packed
    raises.
    """
    model = require_cpu(model, context)
    plan = planned(model) or MemoryPlan()
    context = context or plan.context or min(model.config.context, DEFAULT_CONTEXT)
    wide = packed_for_batches(model.root, batch_int8) if batch_int8 else None
    opened = Slots(model.root, model.config, slots or AUTO_SLOTS, context, threads, plan, wide)
    room = free_bytes() - SPARE_BYTES - opened.logits.nbytes if memory else int(free_bytes() * SHARE)
    budget = min(room // opened.token_bytes, opened.count * rows(opened.context))
    metrics = Metrics()
    metrics.budget.set(max(0, budget) * opened.token_bytes)
    service = Service(model.name, open_tokenizer(model.root), opened, budget, metrics, rules or Rules())
    if service.engine.seats.longest < min(MIN_TOKENS, opened.context):
        raise MemoryShort(
            "{slots} slots leave room for {tokens} tokens in one of them.",
            hint="Allow more with --memory, or use fewer --slots.",
            slots=opened.count,
            tokens=max(0, service.engine.seats.longest),
        )
    return service


def require_cpu(model: ModelHandle | Bundle, context: int | None) -> Bundle:
    """Raises ModelUnsupported for what is no cpu bundle, UsageError for a context that it does not have."""
    if not isinstance(model, Bundle) or model.target != "cpu":
        raise ModelUnsupported(
            "{model} is no cpu bundle, which is what serve runs.",
            hint="Make one: deepseek deploy {model} --target cpu",
            model=model.name,
        )
    check_context(model, context)
    return model


class Server(uvicorn.Server):
    """Says when it listens, and where; SIGTERM is the way it normally ends."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[int], object]) -> None:
        super().__init__(config)
        self.listening, self.interrupted = listening, False

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.listening(self.servers[0].sockets[0].getsockname()[1])

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.interrupted |= sig == signal.SIGINT
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.interrupted:
            raise KeyboardInterrupt


def make_server(service: Service, place: Place, log: Log, listening: Callable[[int], object]) -> Server:
    from deepseek_cli.serve.app import make_app

    return server_at(place, make_app(service, place.keys, place.limits, log), listening)


def server_at(place: Place, app: Gate, listening: Callable[[int], object]) -> Server:
    place.check()
    config = uvicorn.Config(
        app,
        host=place.host,
        port=place.port,
        http=Patient,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(place.drain_seconds),
    )
    return Server(config, listening)


def serve(server: Server) -> None:
    """Until SIGTERM. Raises KeyboardInterrupt behind SIGINT, ResourceError where nothing can listen there."""
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say so; it has logged why
        server.started = False
    if not server.started:
        raise ResourceError(
            "Nothing can listen at {host}, port {port}.",
            hint="Choose another --port.",
            host=server.config.host,
            port=server.config.port,
        )
