"""Several engines behind one door: each a replica of Ray Serve's, which starts, watches and counts them.

Ray Serve's own HTTP server is not started. The door stands in this process, with the gate and so all keys, rates and limits,
once for all replicas. A request goes from there to the replica that has the fewest, and its messages come back as they would
from the application here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from starlette.types import Message, Receive, Scope, Send

from deepseek_cli import __version__
from deepseek_cli.cluster import at_once, joined, processors, require_ray
from deepseek_cli.errors import ResourceError, UsageError
from deepseek_cli.handle import Bundle
from deepseek_cli.serve.connections import CONNECTIONS
from deepseek_cli.serve.failures import Refused
from deepseek_cli.serve.gate import OPEN, Gate, Log
from deepseek_cli.serve.metrics import Metrics, merged
from deepseek_cli.serve.replica import FACTS, Replica
from deepseek_cli.serve.server import AUTO_SLOTS, Place, Server, require_cpu, server_at
from deepseek_cli.serve.service import Rules

LOOK_SECONDS = 5.0  # that a look at replicas may take
TRIES = 2  # to start a replica, before the deployment is given up
QUIET: dict[str, Any] = {"log_level": "ERROR", "enable_access_log": False}
PASSED = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "client", "server")


@dataclass(frozen=True, slots=True)
class Replicas:
    """From `least` to `most` of them, by how many requests are open, and what each is told; None where nobody said."""

    least: int = 1
    most: int = 1
    slots: int | None = None
    context: int | None = None
    memory: int | None = None
    threads: int | None = None
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class Door:
    """A server that is about to listen, and what became of the requests it let in."""

    server: Server
    metrics: Metrics
    threads: int


@contextlib.contextmanager
def behind_door(
    bundle: Bundle, wanted: Replicas, place: Place, log: Log, listening: Callable[[int], object], address: str | None = None
) -> Iterator[Door]:
    """Replicas run within the block, on the cluster at `address` or as `joined` says.

    Raises MissingExtra; what `require_cpu` and `joined` raise; UsageError where so many do not fit; ResourceError where one
    cannot start.
    """
    require_ray("ray", "grpc", "grpc_reflection")
    require_cpu(bundle, wanted.context)
    place.check()
    with joined(address):
        threads = wanted.threads or max(1, sum(processors()) // wanted.most)
        _require_room(wanted, threads)
        with _deployed(bundle, wanted, threads, place.drain_seconds) as handle:
            metrics = Metrics()
            gate = Gate(Passage(handle, metrics, wanted.rules.seconds), place.keys, place.limits, metrics, log)
            yield Door(server_at(place, gate, listening), metrics, threads)


def _require_room(wanted: Replicas, threads: int) -> None:
    room = at_once(threads)
    if room < wanted.least:
        raise UsageError(
            "The Ray cluster has room for {room} replicas of {threads} threads, and {replicas} are to run.",
            hint="Use fewer --replicas, or fewer --threads for each.",
            room=room,
            threads=threads,
            replicas=wanted.least,
        )


@contextlib.contextmanager
def _deployed(bundle: Bundle, wanted: Replicas, threads: int, drain_seconds: float) -> Iterator[Any]:
    """The handle of an application of its own, so that what else Ray Serve runs on the cluster stays as it is."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(QUIET["log_level"])
    told = {"slots": wanted.slots, "context": wanted.context, "memory": wanted.memory, "threads": threads, "rules": wanted.rules}
    deployment: Any = serve.deployment(
        Replica,
        name="replica",
        **_scaling(wanted),
        max_ongoing_requests=CONNECTIONS,  # whoever waits does so in a replica, where clients take turns
        ray_actor_options={"num_cpus": threads},
        graceful_shutdown_timeout_s=drain_seconds,
        max_constructor_retry_count=TRIES,
        logging_config=QUIET,
    )
    name = f"deepseek-{uuid4().hex[:8]}"
    serve.start(proxy_location="Disabled", logging_config=QUIET)
    try:
        try:
            handle = serve.run(deployment.bind(__version__, str(bundle.root.resolve()), told), name=name, route_prefix=None)
        except RuntimeError as error:
            raise _not_started(serve, name, error) from None
        yield handle
    finally:
        serve.delete(name)
        if not serve.status().applications:
            serve.shutdown()


def _scaling(wanted: Replicas) -> dict[str, Any]:
    if wanted.least == wanted.most:
        return {"num_replicas": wanted.most}
    numbers = {"min_replicas": wanted.least, "max_replicas": wanted.most}
    return {"autoscaling_config": {**numbers, "target_ongoing_requests": wanted.slots or AUTO_SLOTS}}


def _not_started(serve: Any, name: str, error: RuntimeError) -> ResourceError:
    """Ray Serve passes on the traceback of the replica's, whose last line says why."""
    found = serve.status().applications.get(name)
    said = [deployment.message for deployment in found.deployments.values() if deployment.message] if found else []
    last = (said or [str(error)])[0].strip().splitlines()[-1]
    return ResourceError(
        "Ray Serve could not start a replica: {reason}",
        hint="The bundle has to lie at the same path on all machines, and to fit in the memory of each.",
        reason=re.sub(r"^[\w.]+: ", "", last),
    )


class Passage:
    """The application as the gate sees it: it carries requests to replicas, and their messages back."""

    def __init__(self, handle: Any, metrics: Metrics, seconds: float) -> None:
        self.handle, self.streams, self.metrics, self.seconds = handle, handle.options(stream=True), metrics, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        elif scope["path"] == "/metrics":
            await self._metrics(scope, receive, send)
        else:
            await self._carry(scope, receive, send)

    async def _carry(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Refused where no answer began, OSError where it broke off, as the gate expects it."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        body = (await receive())["body"]
        messages = self.streams.remote(_passed(scope), body)
        leaving = asyncio.ensure_future(_gone(receive, messages.cancel))
        begun = False
        try:
            async for batch in self._in_time(messages, LOOK_SECONDS if scope["path"] in OPEN else self.seconds):
                for message in batch:
                    if message["type"] == FACTS:
                        self._note(scope, message)
                    else:
                        begun = True
                        await send(message)
        except (RayError, RayServeException, TimeoutError) as error:
            if begun:
                raise OSError("the answer broke off") from error
            if leaving.done():
                raise Refused(499, "The client left.", code="client_left") from None
            raise Refused(503, "No replica answers now.", code="no_replica", retry_after=LOOK_SECONDS) from None
        finally:
            leaving.cancel()
            messages.cancel()

    async def _in_time(self, messages: Any, seconds: float) -> AsyncIterator[list[Message]]:
        """The first within `seconds`: none comes while there is no replica. From then on replicas keep the time."""
        async with asyncio.timeout(seconds):
            first = await anext(messages)
        yield first
        async for batch in messages:
            yield batch

    def _note(self, scope: Scope, message: Message) -> None:
        """What the gate writes down."""
        scope["state"]["facts"] = message["facts"]
        if message["routed"]:
            scope["endpoint"] = None
        self.metrics.prompt.inc(message["facts"].get("prompt_tokens", 0))
        self.metrics.new.inc(message["facts"].get("new_tokens", 0))

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import PlainTextResponse

        try:
            found = await self.handle.broadcast("measured").results_async(timeout_s=LOOK_SECONDS, return_exceptions=True)
        except TimeoutError:
            raise Refused(503, "No replica answers now.", code="no_replica", retry_after=LOOK_SECONDS) from None
        each = [one for one in found if not isinstance(one, BaseException)]
        scope["endpoint"] = None
        await PlainTextResponse(merged(self.metrics, each), media_type="text/plain; version=0.0.4")(scope, receive, send)


def _passed(scope: Mapping[str, Any]) -> dict[str, Any]:
    """What a replica needs of a request; its key is not."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
    return {**{name: scope[name] for name in PASSED}, "headers": headers, "state": {"client": scope["state"]["client"]}}


async def _gone(receive: Receive, cancel: Callable[[], object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    cancel()
