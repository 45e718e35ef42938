"""What the page's sliders reckon with: a few numbers of a model, and the formula that `templates/scripts/whatif.js` has too.

It counts as the table of devices of an estimate does: in a runtime that keeps weights as they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_cli.profile import runtimes
from deepseek_cli.profile.devices import DEVICES, THIS, Device, memory_here
from deepseek_cli.profile.estimate import AS_IT_IS, KV_BYTES, SMALLER, scale_bytes
from deepseek_cli.profile.fit import TIGHT, Verdict, verdict_of
from deepseek_cli.profile.machine import machine
from deepseek_cli.profile.runtimes import RUNTIMES
from deepseek_cli.profile.sketch import Sketch, total
from deepseek_cli.profile.weights import Stored
from deepseek_cli.runtime.context import DEFAULT_CONTEXT

RUNTIME = "packed"
PAGE = "deepseek.profile/2"


def what_if(
    sketch: Sketch, context: int | None = None, batch: int = 1, kv: str | None = None, scheme: str | None = None
) -> dict[str, Any]:
    """The numbers; `now` is where the sliders stand at first."""
    longest = sketch.config.context
    stored = {AS_IT_IS: total(sketch.weights)} | {name: total(sketch.in_scheme(name)) for name in SMALLER}
    if scheme:
        stored |= {scheme: total(sketch.in_scheme(scheme))}
    return {
        "now": {
            "context": context or min(longest, DEFAULT_CONTEXT),
            "batch": batch,
            "kv": kv or ("fp16" if scheme else sketch.kv),
            "scheme": scheme or AS_IT_IS,
        },
        "schemes": stored,
        "kv": KV_BYTES,
        "scale_bytes": scale_bytes(sketch),
        "kinds": kinds(sketch),
        "runtime_bytes": RUNTIMES[RUNTIME].libraries_bytes,
        "activation": _activation(sketch, longest),
        "devices": [_device(device) for device in (memory_here(), *DEVICES)],
        "tight": TIGHT,
        "longest_context": longest,
    }


def kinds(sketch: Sketch) -> list[dict[str, Any]]:
    """The layers by what they cache. Values and rows, which have a scale each in 8 bits, are of one layer."""
    cost, _ = sketch.costs
    layers = sketch.config.layers
    kind = "latent" if getattr(sketch.config, "latent", None) else "full"
    values, rows = cost.kv_values_per_token // layers, cost.cache_rows_per_token // layers
    return [{"kind": kind, "layers": layers, "values_per_token": values, "rows_per_token": rows, "window": None}]


def cache_bytes(model: Mapping[str, Any], context: int, kv: str) -> int:
    """Of one row of a batch."""
    return sum(
        k["layers"]
        * min(context, k["window"] or context)
        * (k["values_per_token"] * model["kv"][kv] + k["rows_per_token"] * model["scale_bytes"].get(kv, 0))
        for k in model["kinds"]
    )


def need(model: Mapping[str, Any], context: int, batch: int, kv: str, scheme: str) -> dict[str, int]:
    """Bytes by part, and all together."""
    activation = model["activation"]
    parts = {
        "weights": model["schemes"][scheme],
        "kv": batch * cache_bytes(model, context, kv),
        "activations": batch * (activation["fixed_bytes"] + activation["bytes_per_token"] * context),
        "runtime": model["runtime_bytes"],
    }
    return {**parts, "total": sum(parts.values())}


def verdict(model: Mapping[str, Any], needed: int, device: Mapping[str, Any]) -> Verdict:
    return verdict_of(needed, device["usable_bytes"], model["tight"])


def as_document(found: dict[str, Any], sketch: Sketch, scheme: str | None, command: str) -> dict[str, Any]:
    """An estimate as a document for the page: nothing in it was measured."""
    kv, config = found["kv"], sketch.config
    model = {"name": found["name"], "architecture": found["architecture"], "layers": config.layers}
    cache = {"bytes_per_token": kv["bytes_per_token"], "context": kv["context"], "reserved_bytes": kv["full_bytes"]}
    return {
        "schema": PAGE,
        "estimate_only": found,
        "failed": None,
        "model": {**model, "kind": "estimate", "parameters": found["parameters"]},
        "run": {"command": command},
        "machine": machine(),
        "weights": found["weights"],
        "tensors": [_tensor(stored) for stored in (sketch.in_scheme(scheme) if scheme else sketch.weights)],
        "kv": {**cache, "kinds": kinds(sketch)},
        "what_if": what_if(sketch, kv["context"], kv["batch"], kv["kind"], scheme),
    }


def _activation(sketch: Sketch, longest: int) -> dict[str, int]:
    """The line through two prompts: of one whole chunk, and of the whole context."""
    latent = bool(getattr(sketch.config, "latent", None))
    facts = RUNTIMES[RUNTIME]
    chunk = min(facts.latent_chunk if latent else facts.chunk, longest)
    near, far = (runtimes.activations(RUNTIME, sketch, tokens, 1) for tokens in (chunk, longest))
    slope = (far - near) // max(longest - chunk, 1)
    return {"fixed_bytes": near - slope * chunk, "bytes_per_token": slope}


def _tensor(stored: Stored) -> dict[str, Any]:
    return {
        "name": stored.name,
        "layer": stored.layer,
        "form": stored.form,
        "parameters": stored.parameters,
        "bytes": stored.size_bytes,
    }


def _device(device: Device) -> dict[str, Any]:
    facts = {"memory_bytes": device.memory_bytes, "usable_bytes": device.usable_bytes}
    return {"name": device.name, "kind": "here" if device.name == THIS else device.kind, **facts}
