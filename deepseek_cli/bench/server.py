"""Our own server over one bundle, in a process of its own: it speaks worker.py's language, and is asked what it has spent."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from deepseek_cli.bench.worker import speaking
from deepseek_cli.errors import ResourceError
from deepseek_cli.memory import capped
from deepseek_cli.profile import memory
from deepseek_cli.spec import PACKED_CACHE

PATIENCE = 60.0  # seconds until it listens, its model loaded


def main(settings: dict[str, Any]) -> None:
    from deepseek_cli.handle import open_any
    from deepseek_cli.runtime.machine_cache import MachineCache
    from deepseek_cli.serve.server import Place, make_server, open_service
    from deepseek_cli.store import Store

    cap = capped(settings["memory"]) if settings["memory"] else contextlib.nullcontext()
    with speaking() as say, cap:
        store = Store(Path(settings["home"]))
        bundle = open_any(settings["ref"], store)
        cache = MachineCache(store.packed, PACKED_CACHE) if settings.get("batch_int8") else None
        start = time.perf_counter()
        service = open_service(
            bundle, **{key: settings[key] for key in ("slots", "context", "memory", "threads")}, batch_int8=cache
        )
        model = Timed(service.engine.slots)
        up, ports = threading.Event(), list[int]()

        def listening(port: int) -> None:
            ports.append(port)
            up.set()

        server = make_server(service, Place(port=0), lambda record: None, listening)
        loop = threading.Thread(target=server.run, daemon=True)
        loop.start()
        if not up.wait(PATIENCE):
            raise ResourceError(
                "The server of {model} did not begin to listen.", hint="See whether a port is free.", model=bundle.name
            )
        facts = {"name": bundle.name, "kind": "bundle", "bytes": bundle.size_bytes, "url": f"http://127.0.0.1:{ports[0]}"}
        say("ready", **facts, load=time.perf_counter() - start)
        for line in sys.stdin:
            request = json.loads(line)["do"]
            overhead = processor_of(service.engine) + processor_of(loop) - model.seconds
            say(request, processor=time.process_time(), overhead=overhead, rss=memory.resident().rss / 1e6)


class Timed:
    """Counts what the calling thread spends of the processor within the model's own runs."""

    def __init__(self, slots: Any) -> None:
        self.seconds = 0.0
        for session in {slots.session, slots.wide}:
            session.run_with_iobinding = partial(self.run, session.run_with_iobinding)

    def run(self, inner: Callable[[Any], None], binding: Any) -> None:
        start = time.thread_time()
        inner(binding)
        self.seconds += time.thread_time() - start


def processor_of(thread: threading.Thread) -> float:
    """Seconds of the processor that it has had; 0 where the system does not tell."""
    clock = getattr(time, "pthread_getcpuclockid", None)
    return time.clock_gettime(clock(thread.ident)) if clock and thread.ident else 0.0
