"""Our own server over one bundle, in a process of its own: it speaks worker.py's language, and is asked what it has spent."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from deepseek_cli.bench.worker import speaking
from deepseek_cli.errors import ResourceError
from deepseek_cli.memory import capped
from deepseek_cli.profile import memory

PATIENCE = 60.0  # seconds until it listens, its model loaded


def main(settings: dict[str, Any]) -> None:
    from deepseek_cli.handle import open_any
    from deepseek_cli.serve.server import Place, make_server, open_service
    from deepseek_cli.store import Store

    cap = capped(settings["memory"]) if settings["memory"] else contextlib.nullcontext()
    with speaking() as say, cap:
        bundle = open_any(settings["ref"], Store(Path(settings["home"])))
        start = time.perf_counter()
        service = open_service(bundle, **{key: settings[key] for key in ("slots", "context", "memory", "threads")})
        up, ports = threading.Event(), list[int]()

        def listening(port: int) -> None:
            ports.append(port)
            up.set()

        server = make_server(service, Place(port=0), lambda record: None, listening)
        threading.Thread(target=server.run, daemon=True).start()
        if not up.wait(PATIENCE):
            raise ResourceError(
                "The server of {model} did not begin to listen.", hint="See whether a port is free.", model=bundle.name
            )
        facts = {"name": bundle.name, "kind": "bundle", "bytes": bundle.size_bytes, "url": f"http://127.0.0.1:{ports[0]}"}
        say("ready", **facts, load=time.perf_counter() - start)
        for line in sys.stdin:
            request = json.loads(line)["do"]
            say(request, processor=time.process_time(), rss=memory.resident().rss / 1e6)
