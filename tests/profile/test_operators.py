from __future__ import annotations

from typing import Any

import pytest

from deepseek_cli.profile import operators


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.12.self_attn.q_proj.weight", "12"),
        ("model.layers.3.mlp.gate_proj,model.layers.3.mlp.up_proj.codes", "3"),
        ("attention.7", "7"),
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("model.norm.weight", "head"),
        ("model.layers.0.input_layernorm.weight", "0"),
        ("Mul_34", None),
    ],
)
def test_names_tell_their_layer(name: str, layer: str | None) -> None:
    assert operators.layer_of(name) == layer


def node(name: str, op: str, ts: float, dur: float, **args: int) -> dict[str, Any]:
    texts = {key: str(value) for key, value in args.items()}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": op, **texts}}


def arena(in_use: int, delta: int, growth: int = 0) -> dict[str, int]:
    held = {"mem_arena_held": 4096, "mem_arena_held_delta": growth, "mem_in_use_peak": 2000}
    return {"mem_bytes_in_use": in_use, "mem_in_use_delta": delta, **held}


def run(start: float, growth: int = 0) -> list[dict[str, Any]]:
    return [
        {"cat": "Session", "name": "model_run", "ts": start, "dur": 100, "args": {}},
        node("embed", "Gather", start + 1, 10, **arena(1100, 100, growth)),
        node("attention.0", "GroupQueryAttention", start + 20, 30, **arena(1500, 400)),
        node("Mul_2", "Mul", start + 60, 5, **arena(1200, -300)),
        node("MatMulNBits_3", "MatMulNBits", start + 70, 20, **arena(1200, 0)),
    ]


EVENTS = [*run(0, growth=512), *run(1000), *run(2000)]
NODES = operators.node_events(EVENTS)


def test_the_last_runs_are_decoding() -> None:
    assert operators.split_passes(EVENTS, 2) == 1000
    assert operators.split_passes(EVENTS, 9) == float("inf")


def test_operators_are_summed_by_kind_slowest_first() -> None:
    rows = operators.by_operator(NODES, 1000)
    assert [row["operator"] for row in rows] == ["GroupQueryAttention", "MatMulNBits", "Gather", "Mul"]
    first, gather = rows[0], rows[2]
    assert (first["nodes"], first["calls"]) == (1, 3)
    assert first["prefill_seconds"] == pytest.approx(30e-6)
    assert first["decode_seconds"] == pytest.approx(60e-6)
    assert gather["arena_growth_bytes"] == 512


def test_a_node_without_a_layer_belongs_to_the_one_before() -> None:
    rows = operators.time_by_layer(NODES, 1000, {"MatMulNBits_3": "head"})
    assert list(rows) == ["embedding", "0", "head"]
    assert rows["0"]["prefill_seconds"] == pytest.approx(35e-6)
    total = sum(row["prefill_seconds"] + row["decode_seconds"] for row in rows.values())
    assert total == pytest.approx(sum(event["dur"] for event in NODES) / 1e6)


def test_the_arena_before_and_while_it_runs() -> None:
    assert operators.arena_of(NODES) == {
        "weights_bytes": 1000,
        "activations_bytes": 500,
        "lifetime_peak_bytes": 2000,
        "held_bytes": 4096,
        "growths": 1,
    }


def test_no_counters_is_no_arena() -> None:
    assert operators.arena_of([node("a", "Mul", 0, 1)]) is None
    assert operators.number({"x": "much"}, "x") == 0
