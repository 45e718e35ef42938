from __future__ import annotations

from typing import Any

import pytest

from deepseek_cli.profile import operators
from deepseek_cli.profile.arena import arena_of


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
    requested = {"mem_bytes_requested_in_use": in_use - 10, "mem_requested_in_use_delta": delta}
    return {"mem_bytes_in_use": in_use, "mem_in_use_delta": delta, **requested, **held}


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


PLACED = list(operators.with_layers(NODES, {"MatMulNBits_3": "head"}))
PASSES = operators.Passes(decode_from=1000)


def test_the_last_runs_are_decoding() -> None:
    assert operators.split_passes(EVENTS, 2, 2) == PASSES
    assert operators.split_passes(EVENTS, 9, 9) == operators.Passes(float("inf"))


def test_what_was_seen_stands_for_all_steps() -> None:
    seen = operators.split_passes(EVENTS, 2, 32)
    assert seen.steps_each == 16
    row = operators.by_node(PLACED, seen)[0]
    assert row["prefill_seconds"] == pytest.approx(30e-6)
    assert row["decode_seconds"] == pytest.approx(16 * 60e-6)


def test_operators_are_told_apart_by_layer() -> None:
    rows = {(row["operator"], row["layer"]): row for row in operators.by_operator(PLACED, PASSES)}
    assert list(rows) == [("GroupQueryAttention", "0"), ("MatMulNBits", "head"), ("Gather", "embedding"), ("Mul", "0")]
    assert rows["Mul", "0"]["calls"] == 3


def test_operators_are_summed_by_kind_slowest_first() -> None:
    again = [(event, f"other than {layer}") for event, layer in PLACED]
    (doubled, *_) = operators.over_layers(operators.by_operator([*PLACED, *again], PASSES))
    assert (doubled["nodes"], doubled["calls"]) == (2, 6)
    rows = operators.over_layers(operators.by_operator(PLACED, PASSES))
    assert [row["operator"] for row in rows] == ["GroupQueryAttention", "MatMulNBits", "Gather", "Mul"]
    first, gather = rows[0], rows[2]
    assert (first["nodes"], first["calls"]) == (1, 3)
    assert first["prefill_seconds"] == pytest.approx(30e-6)
    assert first["decode_seconds"] == pytest.approx(60e-6)
    assert gather["arena_growth_bytes"] == 512


def test_a_node_without_a_layer_belongs_to_the_one_before() -> None:
    rows = operators.by_layer(PLACED, PASSES, weights_bytes=1000)
    assert list(rows) == ["embedding", "0", "head"]
    assert rows["0"]["prefill_seconds"] == pytest.approx(35e-6)
    total = sum(row["prefill_seconds"] + row["decode_seconds"] for row in rows.values())
    assert total == pytest.approx(sum(event["dur"] for event in NODES) / 1e6)


def test_a_layer_holds_what_is_in_use_beside_the_weights() -> None:
    rows = operators.by_layer(PLACED, PASSES, weights_bytes=1000)
    assert [row["activation_bytes"] for row in rows.values()] == [100, 500, 200]
    bare = operators.by_layer([(node("a", "Mul", 0, 1), "0")], PASSES, 0)
    assert bare["0"]["activation_bytes"] is None


def test_nodes_are_summed_slowest_first() -> None:
    rows = operators.by_node(PLACED, PASSES, most=2)
    assert [row["node"] for row in rows] == ["attention.0", "MatMulNBits_3"]
    assert rows[0] == {
        "node": "attention.0",
        "operator": "GroupQueryAttention",
        "layer": "0",
        "prefill_seconds": pytest.approx(30e-6),
        "decode_seconds": pytest.approx(60e-6),
        "in_use_bytes": 1500,
        "requested_bytes": 1490,
        "held_bytes": 4096,
        "growth_bytes": 0,
    }
    assert operators.by_node(PLACED, PASSES)[2]["growth_bytes"] == 512


def test_a_trace_begins_with_the_first_pass() -> None:
    events = operators.trace_events(EVENTS, PLACED, most=5)
    assert len(events) == 5
    assert events[1] == {
        "node": "attention.0", "operator": "GroupQueryAttention", "layer": "0", "ts": 20, "dur": 30,
        "in_use_bytes": 1500, "requested_bytes": 1490, "held_bytes": 4096,
    }  # fmt: skip


def test_the_arena_before_and_while_it_runs() -> None:
    found = arena_of(NODES, 1000)
    assert found is not None
    assert {key: found[key] for key in ("weights_bytes", "activations_bytes", "requested_bytes", "held_bytes", "growths")} == {
        "weights_bytes": 1000,
        "activations_bytes": 500,
        "requested_bytes": 1490,
        "held_bytes": 4096,
        "growths": 1,
    }
    assert found["start"] == {"in_use": 1000, "requested": 990, "held": 3584}
    fullest, end = {"in_use": 1500, "requested": 1490, "held": 4096}, {"in_use": 1200, "requested": 1190, "held": 4096}
    assert found["phases"] == {"prefill": {"fullest": fullest, "end": end}, "decode": {"fullest": fullest, "end": end}}
    assert found["points"][1] == [0.02, 1500, 1490, 4096]


def test_the_arena_in_few_points() -> None:
    many = [node("a", "Mul", i, 1, **arena(1000 + i % 7, 0)) for i in range(3000)]
    found = arena_of(many, float("inf"))
    assert found is not None
    assert len(found["points"]) <= 500
    assert list(found["phases"]) == ["prefill"]


def test_no_counters_is_no_arena() -> None:
    assert arena_of([node("a", "Mul", 0, 1)], 0) is None
    assert operators.number({"x": "much"}, "x") == 0
