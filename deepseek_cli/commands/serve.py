"""deepseek serve"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._offer import subject_or_made
from deepseek_cli.commands._subject import store_of
from deepseek_cli.errors import ResourceError, UsageError
from deepseek_cli.output import Result
from deepseek_cli.reporter import Reporter
from deepseek_cli.spec import PACKED_CACHE, Size, as_record, option

if TYPE_CHECKING:
    from deepseek_cli.runtime.machine_cache import MachineCache
    from deepseek_cli.serve.gate import Log
    from deepseek_cli.serve.server import Place
    from deepseek_cli.serve.service import Rules

ARGUMENTS = ("model?",)
COMMON = ("threads", "context", "memory", "engine", "address", "memory_profile")
MOST_SLOTS, MOST_REPLICAS = 64, 64


@dataclass(frozen=True, slots=True)
class ServeSpec:
    host: str = option("127.0.0.1", help="where to listen; beyond this machine only with keys")
    port: int = option(8000, help="0 takes a free one")
    api_key_file: Path | None = option(None, help="lines of KEY [NAME [use|admin [REQUESTS_PER_MINUTE]]]", metavar="FILE")
    slots: str = option("auto", help="most requests that are computed together, up to 64", metavar="N|auto")
    replicas: str = option(
        "1", help="with --engine ray: how many share the requests, or the fewest and the most", metavar="N|N-M"
    )
    log: Path | None = option(None, help="append one JSON line a request here, never what it says; - is stderr", metavar="FILE")
    new_tokens: int = option(512, help="most tokens of an answer, where a request does not say", rare=True)
    request_seconds: float = option(600.0, help="most seconds for one request", rare=True)
    queue: int = option(256, help="most requests that wait", rare=True)
    body_size: Size = option(4_000_000, help="most bytes of a request", rare=True)
    drain_seconds: float = option(30.0, help="for what is under way when SIGTERM comes", rare=True)
    batch_int8: bool = option(
        False, help="prompts, and many answers at once, through int8 weights: faster, and less exact", rare=True
    )

    def __post_init__(self) -> None:
        count = int(self.slots) if self.slots.isascii() and self.slots.isdecimal() and len(self.slots) < 4 else 0
        if self.slots != "auto" and not 1 <= count <= MOST_SLOTS:
            raise UsageError(
                "--slots {slots} is neither auto nor 1 to {most}.", hint="Change it.", slots=self.slots, most=MOST_SLOTS
            )
        if not 1 <= self.replica_range[0] <= self.replica_range[1] <= MOST_REPLICAS:
            raise UsageError(
                "--replicas {replicas} is no number from 1 to {most}, nor two of them.",
                hint="Write it like 2, or like 1-4 to have as many as the load needs.",
                replicas=self.replicas,
                most=MOST_REPLICAS,
            )
        if not 0 <= self.port < 1 << 16:
            raise UsageError(
                "There is no port {port}.", hint="Choose one from 1024 to 65535, or 0 for a free one.", port=self.port
            )
        for name in ("new_tokens", "request_seconds", "queue", "body_size", "drain_seconds"):
            if getattr(self, name) <= 0:
                raise UsageError("{name} must be more than 0.", hint="Change it.", name=name)

    def url(self, port: int) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"

    @property
    def replica_range(self) -> tuple[int, int]:
        """The fewest and the most; (0, 0) for what is neither."""
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", self.replicas, re.ASCII)
        return (int(match[1]), int(match[2] or match[1])) if match else (0, 0)

    @property
    def slot_count(self) -> int | None:
        return None if self.slots == "auto" else int(self.slots)


SPEC = ServeSpec
EXAMPLES = [
    "deepseek serve smollm2@int4-g32-balanced+cpu",
    "deepseek serve smollm2 --port 9000 --slots 8 --memory 2GB",
    "deepseek serve smollm2 --engine ray --replicas 1-4 --threads 2",
    "deepseek serve smollm2 --host 0.0.0.0 --api-key-file keys.txt --log requests.jsonl",
]


def run(call: Call) -> Result:
    spec: ServeSpec = call.spec
    require_server()
    from deepseek_cli.serve.gate import Limits
    from deepseek_cli.serve.keys import read_keys
    from deepseek_cli.serve.server import Place

    if spec.replicas != "1" and call.common.engine != "ray":
        raise UsageError("--replicas is for --engine ray.", hint="Give both, or neither.")
    keys = tuple(read_keys(spec.api_key_file)) if spec.api_key_file else ()
    place = Place(spec.host, spec.port, spec.drain_seconds, keys, Limits(body_bytes=spec.body_size))
    place.check()
    model = subject_or_made(call)
    call.reporter.step("load")
    if getattr(model, "target", "cpu") != "cpu":
        return _foreign(call, model)
    with _log_to(spec.log, call.reporter) as log:
        return (_replicated if call.common.engine == "ray" else _here)(call, model, place, log)


def _here(call: Call, model: Any, place: Place, log: Log) -> Result:
    """By an engine in this process."""
    from deepseek_cli.serve.server import make_server, open_service, serve

    service = open_service(
        model,
        slots=call.spec.slot_count,
        context=call.common.context,
        memory=call.common.memory,
        threads=call.common.threads,
        rules=_rules(call.spec),
        batch_int8=_cache(call) if call.spec.batch_int8 else None,
    )
    _say_how(call, service)
    url = ""

    def listening(port: int) -> None:
        nonlocal url
        url = _told(call, service.name, port)
        call.reporter.note(
            "{slots} slots, {tokens} tokens in all, at most {longest} a request.",
            slots=service.engine.slots.count,
            tokens=service.engine.seats.budget,
            longest=service.engine.seats.longest,
        )

    serve(make_server(service, place, log, listening))
    return Result({"url": url, "model": service.name, **service.metrics.totals()}, [], quiet=url)


def _replicated(call: Call, model: Any, place: Place, log: Log) -> Result:
    """By replicas on a Ray cluster, behind a server in this process."""
    from deepseek_cli.serve.replicas import Replicas, behind_door
    from deepseek_cli.serve.server import AUTO_SLOTS, serve

    spec, common = call.spec, call.common
    if common.memory_profile:
        raise UsageError("--memory-profile sees nothing of what replicas hold.", hint="Leave one of them out.")
    least, most = spec.replica_range
    wanted = Replicas(least, most, spec.slot_count, common.context, common.memory, common.threads, _rules(spec))
    url = ""

    def listening(port: int) -> None:
        nonlocal url
        url = _told(call, model.name, port)

    with behind_door(model, wanted, place, log, listening, common.address) as door:
        call.reporter.note(
            "{replicas} replicas, each with {threads} threads and {slots} slots.",
            replicas=spec.replicas,
            threads=door.threads,
            slots=wanted.slots or AUTO_SLOTS,
        )
        serve(door.server)
    return Result({"url": url, "model": model.name, "replicas": [least, most], **door.metrics.totals()}, [], quiet=url)


def _rules(spec: ServeSpec) -> Rules:
    from deepseek_cli.serve.service import Rules

    return Rules(spec.new_tokens, spec.request_seconds, spec.queue)


def _cache(call: Call) -> MachineCache:
    from deepseek_cli.runtime.machine_cache import MachineCache

    return MachineCache(store_of(call).packed, PACKED_CACHE, call.reporter)


def _told(call: Call, name: str, port: int) -> str:
    """The URL, once it listens."""
    url: str = call.spec.url(port)
    call.reporter.step("serve")
    call.reporter.note("{model} is served at {url}", model=name, url=url)
    return url


def _say_how(call: Call, service: Any) -> None:
    """What its users may wonder about later."""
    if not service.engine.slots.batches:
        call.reporter.warn(
            "{model} computes its answers in turn, not together.",
            model=service.name,
        )
        call.reporter.note("A bundle that computes them together: deepseek deploy MODEL --set latent_cache=gqa")


def _foreign(call: Call, bundle: Any) -> Result:
    """Behind the server of the bundle's own engine."""
    from deepseek_cli.serve.foreign import Wanted, part_of, plain_keys, serve_foreign

    part = part_of(bundle)
    spec: ServeSpec = call.spec
    ours = [name for name in as_record(spec) if name not in ("host", "port", "api_key_file", "slots")]
    ours += [name for name in ("memory", "memory_profile") if getattr(call.common, name)]
    ours += ["engine"] if call.common.engine == "ray" else []
    if ours:
        raise UsageError(
            "The server of a {target} bundle cannot be told {options}.",
            hint="Leave them out, or serve a cpu bundle.",
            target=bundle.target,
            options=", ".join(ours),
        )
    url = ""

    def listening(port: int) -> None:
        nonlocal url
        url = _told(call, bundle.name, port)

    keys = plain_keys(spec.api_key_file) if spec.api_key_file else ()
    wanted = Wanted(spec.host, spec.port, keys, spec.slot_count, call.common.context, call.common.threads)
    code = serve_foreign(bundle, part, wanted, listening)
    if code:
        error = ResourceError(
            "The server of {model} ended with exit code {code}.",
            hint="What it said stands above.",
            model=bundle.name,
            code=code,
        )
        error.exit_code = code
        raise error
    return Result({"url": url, "model": bundle.name, "engine": part.engine}, [], quiet=url)


def require_server() -> None:
    """Raises MissingExtra."""
    from deepseek_cli.runtime.session import require

    for distribution in ("fastapi", "uvicorn", "prometheus-client", "llguidance"):
        require(distribution, "serve", hint="Install it: pip install 'deepseek-cli[{extra}]'")


@contextlib.contextmanager
def _log_to(file: Path | None, reporter: Reporter) -> Iterator[Callable[[dict[str, Any]], object]]:
    """What appends a record. Raises ResourceError where the file cannot be written, before any model is loaded."""
    if file is None:
        yield lambda record: None
    elif str(file) == "-":
        yield lambda record: reporter.note(json.dumps(record))
    else:
        try:
            lines = file.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise ResourceError(
                "{path} cannot be written: {reason}.", hint="Name another file with --log.", path=file, reason=error.strerror
            ) from None
        with lines:
            yield lambda record: lines.write(json.dumps(record) + "\n")
