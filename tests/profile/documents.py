"""Reports made up for the tests: every section filled, hostile where names come from outside."""

from __future__ import annotations

from typing import Any

from deepseek_cli.profile.advice import advise
from deepseek_cli.profile.measure import SCHEMA

MIB = 1 << 20
HOSTILE = "</script><img src=x onerror=alert(1)>\u2028\u202e'\"&{{ 7*7 }}"
MACHINE = {"processor": "A processor", "cores": 2, "memory_bytes": 8192 * MIB, "limit_bytes": None, "system": "Linux 6"}


def phase(name: str, rss: int, peak: int, **changes: Any) -> dict[str, Any]:
    """A worker's record of one phase, in MiB."""
    return {
        "name": name,
        "start": 0.0,
        "end": 1.0,
        "tokens": 0,
        "rss_bytes": rss * MIB,
        "anonymous_bytes": rss * MIB - 20 * MIB,
        "model_file_bytes": 5 * MIB,
        "other_file_bytes": 15 * MIB,
        "peak_bytes": peak * MIB,
        "peak_reset": True,
        "weights_memory_bytes": 0,
        "kv_resident_bytes": 0,
        "heap_free_bytes": MIB,
        "logits_bytes": 0,
        **changes,
    }


def phases() -> list[dict[str, Any]]:
    return [
        phase("import", 60, 60, model_file_bytes=0, other_file_bytes=20 * MIB),
        phase("load", 160, 220, start=1.0, end=1.5),
        phase("prefill", 200, 205, start=1.6, end=2.4, tokens=64, kv_resident_bytes=8 * MIB, logits_bytes=4096),
        phase("decode", 201, 201, start=2.4, end=3.0, tokens=16, kv_resident_bytes=9 * MIB, logits_bytes=4096),
    ]


ARENA = {
    "weights_bytes": 90 * MIB,
    "activations_bytes": 20 * MIB,
    "lifetime_peak_bytes": 140 * MIB,
    "held_bytes": 150 * MIB,
    "growths": 3,
    "requested_bytes": 105 * MIB,
    "unpacked_bytes": 10 * MIB,
    "start": {"in_use": 90 * MIB, "requested": 90 * MIB, "held": 100 * MIB},
    "phases": {
        "prefill": {
            "fullest": {"in_use": 110 * MIB, "requested": 105 * MIB, "held": 150 * MIB},
            "end": {"in_use": 92 * MIB, "requested": 91 * MIB, "held": 150 * MIB},
        },
    },
    "points": [[0.0, 90 * MIB, 90 * MIB, 100 * MIB]],
}


def document(layers: int = 3, name: str = "toy", points: int = 300) -> dict[str, Any]:
    """A whole report, of a bundle: `deepseek.profile/2` with every section."""
    made = [_row(record) for record in phases()]
    rows = [_layer(row) for row in ("embedding", *map(str, range(layers)), "head")]
    first = {
        "schema": SCHEMA,
        "failed": None,
        "model": {"ref": name, "name": name, "kind": "bundle", "runtime": "ONNX Runtime", "architecture": "llama"}
        | {"layers": layers, "parameters": 135_000_000, "active_parameters": 135_000_000},
        "run": {"command": f"deepseek profile {name}", "prompt_tokens": 64, "new_tokens": 16, "threads": 2, "device": "auto"}
        | {"sample_ms": 5.0, "when": "2026-01-02T03:04:05+00:00"},
        "machine": {**MACHINE, "versions": {"python": "3.11"}},
        "peak": {"phase": "load", "bytes": 220 * MIB},
        "phases": made,
        "moments": [_moment("peak", "load", 220), *(_moment(p["phase"], p["phase"], p["rss_bytes"] // MIB) for p in made)],
        "estimate": {
            "runtime": "ONNX Runtime",
            "rows": [
                {"part": part, "estimated_bytes": 210 * MIB, "measured_bytes": 220 * MIB, "error": -0.045} for part in ESTIMATED
            ],
        },
        "weights": [
            {"form": "int4-g32", "tensors": 9, "parameters": 1 << 20, "bytes": 600_000},
            {"form": "f32", "tensors": 5, "parameters": 64, "bytes": 256},
        ],
        "tensors": tensors(layers),
        "kv": {"used_bytes": 8 * MIB, "reserved_bytes": 80 * MIB, "resident_bytes": 9 * MIB, "positions": 80, "context": 800}
        | {"bytes_per_token": 104_857, "kinds": what_if(layers)["kinds"], "bytes_per_value": 4},
        "layers": rows,
        "operators": [_operator(HOSTILE, 3), _operator("MatMulNBits", 9)],
        "layer_operators": [{**_operator(name, 1), "layer": row["layer"]} for row in rows for name in (HOSTILE, "MatMulNBits")],
        "traced": {"decode_steps": 4, "of_steps": 16, "writing_seconds": 0.01, "writing_cpu_seconds": 0.01},
        "nodes": [_node(i) for i in range(min(7 * layers, 200))],
        "arena": {**ARENA, "requested_bytes": 130 * MIB, "points": [_arena(i) for i in range(300)]},
        "leak": _leak(),
        "overhead": {
            **{"plain_seconds": 1.40, "sampled_seconds": 1.42, "profiled_seconds": 1.55},
            **{"plain_cpu_seconds": 2.00, "sampled_cpu_seconds": 2.01, "profiled_cpu_seconds": 2.20},
            **{"sampling_cpu_seconds": 0.03, "sampling_seconds": 3.00},
        },
        "allocator": [
            {"phase": "decode", "allocated_bytes": 90 * MIB, "reserved_bytes": 120 * MIB, "peak_bytes": 130 * MIB}
            | {"fragmentation": 0.25, "slope_bytes": 12}
        ],
        "what_if": what_if(layers),
        "timeline": {
            "period_ms": 5.0,
            "samples": points,
            "points": [[3000 * i / points, (i % 7 + 60) * MIB, 20 * MIB] for i in range(min(points, 1500))],
        },
    }
    return {**first, "advice": advise(first)}


ESTIMATED = ("weights", "kv", "activations", "runtime", "peak")


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """A worker's record as a row of the report."""
    seconds = record["end"] - record["start"]
    return {
        "phase": record["name"],
        "start_seconds": record["start"],
        "seconds": seconds,
        "tokens": record["tokens"],
        "tokens_per_second": record["tokens"] / seconds if record["tokens"] else None,
        "file_bytes": record["rss_bytes"] - record["anonymous_bytes"],
        **{key: record[key] for key in ("rss_bytes", "anonymous_bytes", "peak_bytes", "peak_reset")},
    }


def _moment(name: str, phase: str, mib: int) -> dict[str, Any]:
    """Its parts sum to it."""
    known = {"weights_mapped": 5, "weights_memory": 20, "prepacked": 9, "kv": 8, "runtime_files": 10, "python": 2}
    parts = [{"part": part, "bytes": size * MIB + 7} for part, size in known.items()]
    rest = mib * MIB - sum(part["bytes"] for part in parts)
    transient = (
        {"part": "transient", "bytes": rest - 3 * MIB} if name == "peak" else {"part": "activations", "bytes": rest - 3 * MIB}
    )
    return {
        "moment": name,
        "phase": phase,
        "bytes": mib * MIB,
        "parts": [*parts, transient, {"part": "unattributed", "bytes": 3 * MIB}],
    }


def _layer(name: str) -> dict[str, Any]:
    return {
        "layer": name,
        "weights_bytes": 1000 + len(name),
        "kv_bytes": 10,
        "prefill_seconds": 0.1,
        "decode_seconds": 0.2,
        "prefill_flops": 4_000_000,
        "decode_flops": 60_000,
        "moved_bytes": 2000,
        "activation_bytes": 300,
    }


def tensors(layers: int) -> list[dict[str, Any]]:
    """As an ONNX graph of Llama's shape holds them: codes and scales of seven products, and two norms."""
    found = [
        _tensor("model.embed_tokens.weight", "embedding", "int4-g32", 9_000),
        _tensor("model.norm.weight", "head", "f32", 64),
    ]
    for i in range(layers):
        for product in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"):
            found += [
                _tensor(f"model.layers.{i}.{product}.weight.{kind}", str(i), "int4-g32", 5_000) for kind in ("codes", "scales")
            ]
        found.append(_tensor(f"model.layers.{i}.input_layernorm.weight", str(i), "f32", 64))
    return found


def _tensor(name: str, layer: str, form: str, size: int) -> dict[str, Any]:
    return {"name": name, "layer": layer, "form": form, "parameters": 2 * size, "bytes": size}


def _operator(name: str, nodes: int) -> dict[str, Any]:
    times = {"prefill_seconds": 0.2, "decode_seconds": 0.1 * nodes}
    return {"operator": name, "nodes": nodes, "calls": 17 * nodes, **times, "arena_growth_bytes": 4096}


def _node(i: int) -> dict[str, Any]:
    sizes = {"in_use_bytes": 90 * MIB, "requested_bytes": 88 * MIB, "held_bytes": 150 * MIB, "growth_bytes": 0}
    return (
        {"node": f"/model/layers.{i}/mlp/down_proj/MatMulNBits", "operator": "MatMulNBits", "layer": str(i // 7)}
        | sizes
        | {"prefill_seconds": 0.002, "decode_seconds": 0.001 / (i + 1)}
    )


def _arena(i: int) -> list[float]:
    used = (90 + i % 20) * MIB
    return [1500.0 + 5 * i, used, used - 2 * MIB, (120 + 30 * (i > 100)) * MIB]


def _leak() -> dict[str, Any]:
    points = [[i, 200 * MIB + 4096 * (i % 3)] for i in range(30)]
    return {"iterations": 30, "slope_bytes": 12.5, "low_bytes": -40.0, "high_bytes": 65.0, "leaks": False, "points": points}


def what_if(layers: int) -> dict[str, Any]:
    kind = {"kind": "full", "layers": layers, "values_per_token": 384, "rows_per_token": 6, "window": None}
    devices = [
        ("this machine", "here", 8192),
        ("A phone", "phone", 100),
        ("A board", "board", 190),
        ("A server", "server", 90_000),
    ]
    return {
        "now": {"context": 800, "batch": 1, "kv": "fp32", "scheme": "as it is"},
        "schemes": {"as it is": 80 * MIB, "bf16": 256 * MIB, "int8": 140 * MIB, "int4-g32": 72 * MIB},
        "kv": {"fp32": 4, "fp16": 2, "int8": 1},
        "scale_bytes": {"int8": 4},
        "kinds": [kind],
        "runtime_bytes": 69 * MIB,
        "activation": {"fixed_bytes": 4 * MIB, "bytes_per_token": 100},
        "devices": [{"name": n, "kind": k, "memory_bytes": s * MIB, "usable_bytes": int(0.9 * s * MIB)} for n, k, s in devices],
        "tight": 0.85,
        "longest_context": 8192,
    }


def first_schema(layers: int = 3) -> dict[str, Any]:
    """A report as `deepseek.profile/1` had it."""
    later = ("tensors", "nodes", "layer_operators", "traced", "leak", "allocator", "what_if", "advice")
    kept = {key: value for key, value in document(layers).items() if key not in later}
    return kept | {"schema": "deepseek.profile/1", "arena": ARENA, "overhead": {"plain_seconds": 1.4, "profiled_seconds": 1.5}}
