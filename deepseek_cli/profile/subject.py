"""What is measured: a model folder through PyTorch, or a bundle in its runtime. Only the worker loads this."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from deepseek_cli import plugins
from deepseek_cli.handle import Bundle, ModelHandle
from deepseek_cli.profile import operators, weights
from deepseek_cli.profile.estimate import footprint
from deepseek_cli.profile.sketch import sketch_of
from deepseek_cli.profile.whatif import what_if
from deepseek_cli.runtime.context import DEFAULT_CONTEXT
from deepseek_cli.runtime.session import SESSIONS, Session, check_room, open_session


class ModelSubject:
    """PyTorch. Each layer's time is taken around the architecture's own functions; no hooks are needed."""

    runtime = "PyTorch"

    def __init__(self, handle: ModelHandle, request: dict[str, Any]) -> None:
        import torch  # noqa: F401  the import phase pays for it

        self.request, self.context, self.seconds = (
            request,
            context_of(handle.config.context, request),
            defaultdict[str, list[float]](list),
        )
        parts = handle.architecture
        timed = dataclasses.replace(
            parts,
            embed=self._timed(parts.embed, "embedding"),
            block=self._timed(parts.block, ""),
            head=self._timed(parts.head, "head"),
        )
        self.plain, self.handle = handle, dataclasses.replace(handle, architecture=timed)

    def describe(self) -> dict[str, Any]:
        return describe(self.handle, "model", self.runtime, self.handle.size_bytes)

    def open(self) -> Session:
        return open_session(self.handle, context=self.context, threads=self.request["threads"], device=self.request["device"])

    def details(self, session: Session) -> dict[str, Any]:
        stored = weights.of_handle(self.handle)
        split = -self.request["new_tokens"]
        times = {name: {"prefill_seconds": sum(s[:split]), "decode_seconds": sum(s[split:])} for name, s in self.seconds.items()}
        estimated = estimated_at(self.plain, session.position)
        return {**common_details(session, self.handle, stored, times), "operators": [], "arena": None, "estimate": estimated}

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            self.seconds[name or str(args[3])].append(time.perf_counter() - start)
            return result

        return timed


class RuntimeSubject:
    """A bundle in a runtime that does not say where its time goes."""

    def __init__(self, bundle: Bundle, request: dict[str, Any]) -> None:
        if path := SESSIONS.get(bundle.target):
            plugins.load(path)  # the import phase pays for it
        self.handle, self.request, self.context = bundle, request, context_of(bundle.config.context, request)

    def describe(self) -> dict[str, Any]:
        runtime = (self.handle.manifest.verification or {}).get("runtime") or self.handle.target
        return describe(self.handle, "bundle", runtime, self.handle.size_bytes)

    def open(self) -> Session:
        return open_session(self.handle, context=self.context, threads=self.request["threads"])

    def details(self, session: Session) -> dict[str, Any]:
        return {**common_details(session, self.handle, weights.of_bundle(self.handle), {}), "operators": [], "arena": None}


class BundleSubject:
    """ONNX Runtime. With `request["operators"]` its own profiler is on, and that run's memory is not shown."""

    runtime = "ONNX Runtime"

    def __init__(self, bundle: Bundle, request: dict[str, Any]) -> None:
        import onnxruntime  # noqa: F401  the import phase pays for it

        self.handle, self.request, self.context = bundle, request, context_of(bundle.config.context, request)

    def describe(self) -> dict[str, Any]:
        return describe(self.handle, "bundle", self.runtime, self.handle.size_bytes)

    def open(self) -> Session:
        if not self.request["operators"]:
            return open_session(self.handle, context=self.context, threads=self.request["threads"])
        from deepseek_cli.runtime.onnx_session import OnnxSession

        return OnnxSession(self.handle.root, self.handle.config, self.context, self.request["threads"], profile=True)

    def details(self, session: Session) -> dict[str, Any]:
        stored, node_layers = weights.of_graph(self.handle.root / "model.onnx")
        events = self._events(session)
        nodes = operators.node_events(events)
        start = operators.split_passes(events, self.request["new_tokens"])
        times = operators.time_by_layer(nodes, start, node_layers)
        return {
            **common_details(session, self.handle, stored, times),
            "operators": operators.by_operator(nodes, start),
            "arena": operators.arena_of(nodes),
            "estimate": estimated_at(self.handle, session.position),
        }

    def _events(self, session: Any) -> list[operators.Event]:
        if not self.request["operators"]:
            return []
        path = Path(session.end_profiling())
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        finally:
            path.unlink(missing_ok=True)


def subject_of(model: ModelHandle | Bundle, request: dict[str, Any]) -> ModelSubject | RuntimeSubject | BundleSubject:
    if not isinstance(model, Bundle):
        return ModelSubject(model, request)
    return BundleSubject(model, request) if model.target == "cpu" else RuntimeSubject(model, request)


def context_of(longest: int, request: dict[str, Any]) -> int:
    """Tokens to reserve the KV cache for. Raises UsageError when prompt and new tokens do not fit."""
    wanted = request["prompt_tokens"] + request["new_tokens"]
    context = request["context"] or min(longest, max(DEFAULT_CONTEXT, wanted))
    check_room(0, wanted, context)
    return context


def estimated_at(model: ModelHandle | Bundle, tokens: int) -> dict[str, Any]:
    """What was to be expected of this run, to stand beside what was measured."""
    sketch = sketch_of(model)
    return footprint(sketch, sketch.weights, sketch.runtime, sketch.kv, tokens)


def describe(handle: Any, kind: str, runtime: str, size: int) -> dict[str, Any]:
    config = handle.config
    return {
        "ref": handle.ref,
        "name": handle.name,
        "kind": kind,
        "runtime": runtime,
        "architecture": handle.architecture.name,
        "layers": config.layers,
        "size_bytes": size,
        "longest_context": config.context,
    }


def common_details(
    session: Session, handle: Any, stored: list[weights.Stored], times: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """Weights, KV cache and the layer table. The KV cache is spread over layers evenly, as every layer has the same heads."""
    used, layers = session.kv_bytes, handle.config.layers
    rows = weights.by_layer(stored)
    nothing = {"prefill_seconds": 0.0, "decode_seconds": 0.0}
    return {
        "what_if": what_if(sketch_of(handle)),
        "weights": weights.by_form(stored),
        "kv": {
            "used_bytes": used,
            "reserved_bytes": used * session.context // max(session.position, 1),
            "positions": session.position,
            "context": session.context,
            "bytes_per_token": used // max(session.position, 1),
        },
        "layers": [
            {
                "layer": name,
                "weights_bytes": rows.get(name, 0),
                "kv_bytes": used // layers if name.isdigit() else 0,
                **times.get(name, nothing),
            }
            for name in [*rows, *(n for n in times if n not in rows)]
        ],
    }
