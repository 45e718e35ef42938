"""What each layer computes and moves, counted from shapes and from how the weights are stored. Nothing here is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from deepseek_cli.ops.cost import count_by_layer
from deepseek_cli.profile.estimate import KV_BYTES, read_share
from deepseek_cli.profile.runtimes import RUNTIMES, resident_weights
from deepseek_cli.profile.sketch import EXPERTS, Sketch
from deepseek_cli.profile.weights import Stored

MOST_TENSORS = 4000


def by_layer(sketch: Sketch, prompt: int, position: int) -> dict[str, dict[str, int]]:
    """FLOPs of the prompt and of the last of `position` tokens, and the bytes that the latter reads: weights and cache."""
    shapes = {kind.name: kind.shape for kind in sketch.kinds}
    chunk = RUNTIMES[sketch.runtime].latent_chunk if _latent(sketch) else RUNTIMES[sketch.runtime].chunk
    prefill: Counter[str] = Counter()
    for start in range(0, prompt, chunk):
        costs = count_by_layer(sketch.architecture, sketch.config, min(chunk, prompt - start), start, shapes)
        prefill.update({layer: cost.flops for layer, cost in costs.items()})
    last = count_by_layer(sketch.architecture, sketch.config, 1, position - 1, shapes)
    weights = weights_read(sketch)
    return {
        layer: {
            "prefill_flops": prefill[layer],
            "decode_flops": cost.flops,
            "moved_bytes": weights[layer] + cost.kv_values_per_token * KV_BYTES[sketch.kv] * position,
        }
        for layer, cost in last.items()
    }


def weights_read(sketch: Sketch) -> Counter[str]:
    """Bytes of each layer's weights that one token reads, as they lie in memory; a tied head reads the embedding's."""
    read: Counter[str] = Counter()
    for s in sketch.weights:
        read[s.layer] += int(resident_weights(sketch.runtime, [s]) * read_share(sketch, s, 1))
    if sketch.config.tied:
        rows = read.pop("embedding", 0)
        read.update({"embedding": rows // sketch.config.vocabulary, "head": rows})
    return read


def active_parameters(sketch: Sketch) -> int:
    """Those that one token's products touch: of experts only the chosen ones."""
    gate = getattr(sketch.config, "gate", None)
    share = gate.top_k / gate.experts if gate else 1
    return sum(int(kind.parameters * share) if EXPERTS in kind.name else kind.parameters for kind in sketch.kinds)


def tensors(stored: Sequence[Stored]) -> list[dict[str, Any]]:
    """Every stored tensor; where there are too many, those of a module and all experts of a layer as one."""
    rows = [_row(s, s.name) for s in stored]
    return rows if len(rows) <= MOST_TENSORS else _merged(_row(s, _module(s.name)) for s in stored)


def _row(s: Stored, name: str) -> dict[str, Any]:
    return {"name": name, "layer": s.layer, "form": s.form, "parameters": s.parameters, "bytes": s.size_bytes}


def _module(name: str) -> str:
    before, experts, after = name.rpartition(".")[0].partition(EXPERTS)
    return f"{before}{experts}*.{after.partition('.')[2]}" if experts else before


def _merged(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        kept = found.setdefault((row["name"], row["form"]), {**row, "parameters": 0, "bytes": 0})
        kept["parameters"] += row["parameters"]
        kept["bytes"] += row["bytes"]
    return list(found.values())


def _latent(sketch: Sketch) -> bool:
    return bool(getattr(sketch.config, "latent", None))
