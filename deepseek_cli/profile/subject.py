"""What is measured: a model folder through PyTorch, or a bundle in its runtime. Only the worker loads this."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

from deepseek_cli import plugins
from deepseek_cli.handle import Bundle, ModelHandle
from deepseek_cli.profile import layers, operators, weights
from deepseek_cli.profile.arena import arena_of
from deepseek_cli.profile.estimate import KV_BYTES, footprint
from deepseek_cli.profile.runtimes import FLOAT32
from deepseek_cli.profile.sketch import Sketch, sketch_of
from deepseek_cli.profile.whatif import kinds, what_if
from deepseek_cli.runtime.context import DEFAULT_CONTEXT
from deepseek_cli.runtime.session import SESSIONS, Session, check_room, open_session

MOST_EVENTS = 100_000  # of a trace

# Each subject: `describe` and `weights_bytes`, what loading takes at least; `open`, which may say that packing begins; `details`.
# With `request["plain"]` nothing is watched.


class ModelSubject:
    """PyTorch. Each layer's time is taken around the architecture's own functions; no hooks are needed."""

    runtime = "PyTorch"

    def __init__(self, handle: ModelHandle, request: dict[str, Any]) -> None:
        import torch  # noqa: F401  the import phase pays for it

        self.request, self.context, self.seconds, self.layer = (
            request,
            context_of(handle.config.context, request),
            defaultdict[str, list[float]](list),
            "embedding",
        )
        self.plain, parts = handle, handle.architecture
        timed = dataclasses.replace(
            parts,
            embed=self._timed(parts.embed, "embedding"),
            block=self._timed(parts.block, ""),
            head=self._timed(parts.head, "head"),
        )
        self.handle = handle if request["plain"] else dataclasses.replace(handle, architecture=timed)

    def describe(self) -> dict[str, Any]:
        return describe(self.handle, "model", self.runtime)

    @property
    def weights_bytes(self) -> int:
        return FLOAT32 * self.handle.parameters

    def open(self, packing: Callable[[], None]) -> Session:
        return open_session(self.handle, context=self.context, threads=self.request["threads"], device=self.request["device"])

    def details(self, session: Session) -> dict[str, Any]:
        split = -self.request["new_tokens"]
        times = {name: {"prefill_seconds": sum(s[:split]), "decode_seconds": sum(s[split:])} for name, s in self.seconds.items()}
        if self.request["activations"]:
            for name, size in self._activations(session).items():
                times[name]["activation_bytes"] = size
        sketch = sketch_of(self.plain)
        return {
            **common_details(session, sketch, times, self.request),
            "estimate": estimated_at(sketch, session.position, self.request["threads"]),
        }

    def _activations(self, session: Any) -> dict[str, int]:
        """From the prompt once more, after all that is timed; the cache ends as long as it was."""
        from deepseek_cli.profile.activations import Allocations

        position = session.position
        session.rewind(0)
        cache = [tensor for row in session.cache.rows.values() for tensor in row]
        with Allocations(lambda: self.layer, [*session.weights.values(), *cache]) as counted:
            session.feed(prompt_of(session.config.vocabulary, self.request["prompt_tokens"]))
        session.cache.length = position
        return counted.peaks

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any) -> Any:
            self.layer = name or str(args[3])
            start = time.perf_counter()
            result = function(*args)
            self.seconds[self.layer].append(time.perf_counter() - start)
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
        return describe(self.handle, "bundle", runtime)

    @property
    def weights_bytes(self) -> int:
        return self.handle.size_bytes

    def open(self, packing: Callable[[], None]) -> Session:
        return open_session(self.handle, context=self.context, threads=self.request["threads"])

    def details(self, session: Session) -> dict[str, Any]:
        return common_details(session, sketch_of(self.handle), {}, self.request)


class BundleSubject:
    """ONNX Runtime. With `request["operators"]` its own profiler is on, and that run's memory is not shown."""

    runtime = "ONNX Runtime"

    def __init__(self, bundle: Bundle, request: dict[str, Any]) -> None:
        import onnxruntime  # noqa: F401  the import phase pays for it

        self.handle, self.request, self.context = bundle, request, context_of(bundle.config.context, request)

    def describe(self) -> dict[str, Any]:
        return describe(self.handle, "bundle", self.runtime)

    @property
    def weights_bytes(self) -> int:
        return self.handle.size_bytes

    def open(self, packing: Callable[[], None]) -> Session:
        from deepseek_cli.profile.prepack import TellingSession, watched
        from deepseek_cli.profile.traced import TracedSession
        from deepseek_cli.runtime.onnx_session import OnnxSession

        options = self.handle.root, self.handle.config, self.context, self.request["threads"]
        if self.request["operators"]:
            return TracedSession(*options, budget=self.request["trace_seconds"])
        if self.request["plain"]:
            return OnnxSession(*options)
        with watched(packing):
            return TellingSession(*options)

    def details(self, session: Session) -> dict[str, Any]:
        traced = self._traced(session) if self.request["operators"] else {}
        sketch = sketch_of(self.handle)
        common = common_details(session, sketch, traced.pop("times", {}), self.request)
        return {**common, **traced, "estimate": estimated_at(sketch, session.position, self.request["threads"])}

    def _traced(self, session: Any) -> dict[str, Any]:
        """All that ONNX Runtime's own profile tells."""
        from deepseek_cli.profile.prepack import unpacked_bytes

        events, steps = session.events(), self.request["new_tokens"]
        nodes, passes = operators.node_events(events), operators.split_passes(events, session.decode_steps, steps)
        placed = list(operators.with_layers(nodes, weights.of_graph(self.handle.root / "model.onnx")[1]))
        arena, by_operator = arena_of(nodes, passes.decode_from), operators.by_operator(placed, passes)
        if arena:
            arena["unpacked_bytes"] = unpacked_bytes(self.handle.root, self.handle.config, self.request["threads"])
        return {
            "traced": {
                "decode_steps": session.decode_steps,
                "of_steps": steps,
                "writing_seconds": session.writing_seconds,
                "writing_cpu_seconds": session.writing_cpu_seconds,
            },
            "operators": operators.over_layers(by_operator),
            "layer_operators": by_operator,
            "nodes": operators.by_node(placed, passes),
            "times": operators.by_layer(placed, passes, arena["weights_bytes"] if arena else 0),
            "arena": arena,
            "events": operators.trace_events(events, placed, MOST_EVENTS) if self.request["events"] else [],
        }


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


def prompt_of(vocabulary: int, tokens: int) -> list[int]:
    """What they say costs no more and no less."""
    return [(7 * i + 3) % vocabulary for i in range(tokens)]


def estimated_at(sketch: Sketch, tokens: int, threads: int | None) -> dict[str, Any]:
    """What was to be expected of this run, to stand beside what was measured."""
    return footprint(sketch, sketch.weights, sketch.runtime, sketch.kv, tokens, threads=threads)


def describe(handle: Any, kind: str, runtime: str) -> dict[str, Any]:
    config = handle.config
    return {
        "ref": handle.ref,
        "name": handle.name,
        "kind": kind,
        "runtime": runtime,
        "architecture": handle.architecture.name,
        "layers": config.layers,
        "size_bytes": handle.size_bytes,
        "longest_context": config.context,
    }


def common_details(session: Session, sketch: Sketch, times: dict[str, dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    """Weights, KV cache and the layer table. The KV cache is spread over layers evenly, as every layer has the same heads."""
    used, stored = session.kv_bytes, sketch.weights
    rows, counted = weights.by_layer(stored), layers.by_layer(sketch, request["prompt_tokens"], session.position)
    nothing = {"prefill_seconds": 0.0, "decode_seconds": 0.0, "activation_bytes": None}
    uncounted = dict.fromkeys(("prefill_flops", "decode_flops", "moved_bytes"), 0)
    return {
        "what_if": what_if(sketch),
        "model": {"parameters": sketch.parameters, "active_parameters": layers.active_parameters(sketch)},
        "weights": weights.by_form(stored),
        "tensors": layers.tensors(stored),
        "kv": {
            "used_bytes": used,
            "reserved_bytes": used * session.context // max(session.position, 1),
            "positions": session.position,
            "context": session.context,
            "bytes_per_token": used // max(session.position, 1),
            "bytes_per_value": KV_BYTES[sketch.kv],
            "kinds": kinds(sketch),
        },
        "layers": [
            {
                "layer": name,
                "weights_bytes": rows.get(name, 0),
                "kv_bytes": used // sketch.config.layers if name.isdigit() else 0,
                **uncounted,
                **counted.get(name, {}),
                **nothing,
                **times.get(name, {}),
            }
            for name in [*rows, *(n for n in times if n not in rows)]
        ],
    }
