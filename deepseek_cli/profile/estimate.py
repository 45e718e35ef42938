"""What a model would take: weights, KV cache, activations, loading, time for a token. Nothing is run, and no weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from deepseek_cli.handle import Bundle, ModelHandle
from deepseek_cli.profile import runtimes
from deepseek_cli.profile.devices import DEVICES, Device, this_machine
from deepseek_cli.profile.fit import Fit, Need, as_rows, fit
from deepseek_cli.profile.runtimes import RUNTIMES
from deepseek_cli.profile.sketch import EXPERTS, Sketch, sketch_of, total
from deepseek_cli.profile.weights import Stored, by_form
from deepseek_cli.quantize.spec import default_group
from deepseek_cli.runtime.context import DEFAULT_CONTEXT, check_context
from deepseek_cli.schemes import parse_scheme

SCHEMA = "deepseek.estimate/1"
Kv = Literal["fp32", "fp16", "int8"]
KV_BYTES: dict[str, int] = {"fp32": 4, "fp16": 2, "int8": 1}  # of a value
SCALE_BYTES = 4  # of each row of an 8-bit cache: one head's keys or values of a token, or its latent
AS_IT_IS = "as it is"  # the scheme of a model whose own is not to change
SMALLER = ("bf16", "int8", "int4-g32", "int4-g64", "int4-g128")  # what is tried where a model does not fit


def estimate(
    model: Sketch | ModelHandle | Bundle,
    context: int | None = None,
    batch: int = 1,
    kv: Kv | None = None,
    scheme: str | None = None,
    bandwidth: int | None = None,
) -> dict[str, Any]:
    """Everything about one model, as one document: bytes, seconds, and the table of devices.

    With `scheme` it is the model as `quantize --scheme` would write it. `bandwidth` is this machine's, measured where it is None.
    Raises UsageError for a context beyond what the model was made for, or a scheme that it cannot have.
    """
    sketch = model if isinstance(model, Sketch) else sketch_of(model)
    check_context(sketch, context)
    tokens = context or min(sketch.config.context, DEFAULT_CONTEXT)
    kind = kv or ("fp16" if scheme else sketch.kv)
    stored = sketch.in_scheme(scheme) if scheme else sketch.weights
    runtime = "packed" if scheme else sketch.runtime
    needs = _needs(sketch, _forms(sketch, stored, scheme), kind, tokens, batch)
    machine, read = this_machine(bandwidth), needs[0].read_bytes + needs[0].token_bytes * tokens
    return {
        "schema": SCHEMA,
        "name": sketch.name,
        "architecture": sketch.architecture.name,
        "parameters": sketch.parameters,
        "scheme": scheme,
        "weights": by_form(stored),
        "weights_bytes": total(stored),
        "kv": {"kind": kind, "bytes_per_token": kv_bytes(sketch, kind), "context": tokens, "batch": batch}
        | {"full_bytes": kv_bytes(sketch, kind) * tokens * batch},
        **footprint(sketch, stored, runtime, kind, tokens, batch),
        "decode": {
            "read_bytes": read,
            "bandwidth_bytes_per_second": machine.bandwidth,
            "seconds_per_step": machine.bandwidth and read / machine.bandwidth,
        },
        "devices": as_rows(fit(device, needs, tokens, sketch.config.context) for device in (machine, *DEVICES)),
    }


def fit_on(device: Device, sketch: Sketch) -> Fit:
    """The model at an everyday context, as it is or in whatever scheme would make it fit."""
    tokens = min(sketch.config.context, DEFAULT_CONTEXT)
    needs = _needs(sketch, _forms(sketch, sketch.weights, None), "fp16", tokens, batch=1)
    return fit(device, needs, tokens, sketch.config.context)


def beside_weights(sketch: Sketch) -> int:
    """Bytes of cache, activations and runtime on a device, at an everyday context."""
    tokens = min(sketch.config.context, DEFAULT_CONTEXT)
    need = _needs(sketch, _forms(sketch, sketch.weights, None)[:1], "fp16", tokens, batch=1)[0]
    return need.at(tokens) - need.weights_bytes


def footprint(
    sketch: Sketch, stored: Sequence[Stored], runtime: str, kv: str, tokens: int, batch: int = 1, threads: int | None = None
) -> dict[str, Any]:
    """Bytes by part in one runtime, with `tokens` in the cache. The total is the peak, which may come while loading."""
    libraries = RUNTIMES[runtime].libraries_bytes
    parts = {
        "weights": runtimes.resident_weights(runtime, stored),
        "kv": kv_bytes(sketch, kv) * tokens * batch,
        "activations": runtimes.activations(runtime, sketch, tokens, batch),
        "runtime": libraries,
    }
    load = libraries + runtimes.load_peak(runtime, stored, parts["weights"], sketch.config.tied, threads)
    return {
        "runtime": runtime,
        "parts": [{"part": part, "bytes": size} for part, size in parts.items()],
        "load_peak_bytes": load,
        "total_bytes": max(load, sum(parts.values())),
    }


def kv_bytes(sketch: Sketch, kv: str) -> int:
    """Of one token in one row of a batch."""
    cost, _ = sketch.costs
    scales = scale_bytes(sketch).get(kv, 0) * cost.cache_rows_per_token
    return cost.kv_values_per_token * KV_BYTES[kv] + scales


def scale_bytes(sketch: Sketch) -> dict[str, int]:
    """Of each row of a cache, by its type: our own bundles scale by channel instead, which takes nothing for a token."""
    return {"int8": 0 if sketch.runtime == "ONNX Runtime" else SCALE_BYTES}


def read_bytes(sketch: Sketch, stored: Sequence[Stored], batch: int) -> int:
    """Bytes of the weights that one step of decoding reads."""
    return int(sum(s.size_bytes * read_share(sketch, s, batch) for s in stored))


def read_share(sketch: Sketch, s: Stored, batch: int) -> float:
    """How much of a weight one step of decoding reads: of embeddings only rows, of experts those that are expected."""
    if s.layer == "embedding" and not sketch.config.tied:
        return min(batch / sketch.config.vocabulary, 1.0)
    gate = getattr(sketch.config, "gate", None)
    return 1 - (1 - gate.top_k / gate.experts) ** batch if gate and EXPERTS in s.name else 1.0


def _forms(sketch: Sketch, stored: Sequence[Stored], scheme: str | None) -> list[tuple[str, Sequence[Stored]]]:
    """What is asked for, then whatever is smaller, from most bits to fewest."""
    asked = str(parse_scheme(scheme, default_group(sketch.parameters))) if scheme else AS_IT_IS
    others = [(name, sketch.in_scheme(name)) for name in SMALLER if name != asked]
    return [(asked, stored), *((name, weights) for name, weights in others if total(weights) < total(stored))]


def _needs(sketch: Sketch, forms: list[tuple[str, Sequence[Stored]]], kv: str, tokens: int, batch: int) -> list[Need]:
    """In a runtime that keeps weights as they are stored, as those of devices do."""
    other = RUNTIMES["packed"].libraries_bytes + runtimes.activations("packed", sketch, tokens, batch)
    row = kv_bytes(sketch, kv) * batch
    return [Need(name, total(stored), other, row, read_bytes(sketch, stored, batch)) for name, stored in forms]
