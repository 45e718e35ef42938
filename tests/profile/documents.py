"""A report made up for the tests: every section filled, hostile where names come from outside."""

from __future__ import annotations

import copy
from typing import Any

MIB = 1 << 20
HOSTILE = "</script><img src=x onerror=alert(1)>\u2028\u202e'\"&{{ 7*7 }}"


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
    """A whole report, of a bundle."""
    from deepseek_cli.profile import measure

    made = phases()
    model = {"ref": name, "name": name, "kind": "bundle", "runtime": "ONNX Runtime", "architecture": "llama", "layers": layers}
    run = measure.Run(0.0, model=model, phases=made)
    run.samples = [(3.0 * i / points, (i % 7 + 60) * MIB, 20 * MIB) for i in range(points)]
    rows = ["embedding", *map(str, range(layers)), "head"]
    details = {
        "weights": [
            {"form": "int4-g32", "tensors": 9, "parameters": 1 << 20, "bytes": 600_000},
            {"form": "f32", "tensors": 5, "parameters": 64, "bytes": 256},
        ],
        "kv": {"used_bytes": 8 * MIB, "reserved_bytes": 80 * MIB, "positions": 80, "context": 800, "bytes_per_token": 104_857},
        "layers": [
            {"layer": row, "weights_bytes": 1000, "kv_bytes": 10, "prefill_seconds": 0.1, "decode_seconds": 0.2}
            | {"prefill_flops": 7, "decode_flops": 1, "moved_bytes": 1010, "activation_bytes": None}
            for row in rows
        ],
        "operators": [
            {
                "operator": HOSTILE,
                "nodes": 3,
                "calls": 51,
                "prefill_seconds": 0.2,
                "decode_seconds": 0.3,
                "arena_growth_bytes": 4096,
            }
        ],
        "arena": ARENA,
    }
    run.details = details
    traced = copy.deepcopy(run)
    for record in traced.phases:
        record["end"] += 0.1
    settings = {
        "command": f"deepseek profile {name}",
        "prompt_tokens": 64,
        "new_tokens": 16,
        "threads": 2,
        "device": "auto",
        "sample_ms": 5.0,
    }
    return measure.document(run, traced, settings)
