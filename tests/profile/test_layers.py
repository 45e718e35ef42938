from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepseek_cli.profile import layers
from deepseek_cli.profile.estimate import read_bytes
from deepseek_cli.profile.sketch import Sketch, open_sketch
from deepseek_cli.profile.weights import Stored
from deepseek_cli.profile.whatif import kinds
from deepseek_cli.store import Store

CONFIGS = Path(__file__).parent / "configs"


def sketch(name: str, tmp_path: Path) -> Sketch:
    return open_sketch(str(CONFIGS / f"{name}.json"), Store(tmp_path))


def test_layers_sum_to_the_whole_pass(tmp_path: Path) -> None:
    model = sketch("DeepSeek-V2-Lite", tmp_path)
    rows = layers.by_layer(model, prompt=700, position=720)
    assert sum(row["decode_flops"] for row in rows.values()) == model.count(1, 719).flops
    chunks = [model.count(512, 0), model.count(188, 512)]  # as the runtime cuts a prompt
    assert sum(row["prefill_flops"] for row in rows.values()) == sum(cost.flops for cost in chunks)


def test_a_token_moves_the_weights_it_reads_and_the_cache(tmp_path: Path) -> None:
    model = sketch("DeepSeek-V2-Lite", tmp_path)
    rows = layers.by_layer(model, prompt=1, position=100)
    cache = model.count().kv_values_per_token * 2 * 100
    assert sum(row["moved_bytes"] for row in rows.values()) == pytest.approx(read_bytes(model, model.weights, 1) + cache, abs=999)


def test_of_experts_only_the_chosen_are_active(tmp_path: Path) -> None:
    assert layers.active_parameters(sketch("DeepSeek-V2-Lite", tmp_path)) == pytest.approx(2.66e9, rel=0.02)


def test_latents_are_a_kind_of_cache(tmp_path: Path) -> None:
    (kind,) = kinds(sketch("DeepSeek-V2-Lite", tmp_path))
    assert kind == {"kind": "latent", "layers": 27, "values_per_token": 576, "rows_per_token": 1, "window": None}


def test_too_many_tensors_are_merged_by_module() -> None:
    names = [f"model.layers.{i}.mlp.experts.{e}.up_proj.weight" for i in range(10) for e in range(500)]
    rows = layers.tensors([Stored(name, name.split(".")[2], "bf16", 8, 16) for name in names])
    assert len(rows) == 10
    assert rows[3] == {
        "name": "model.layers.3.mlp.experts.*.up_proj",
        "layer": "3",
        "form": "bf16",
        "parameters": 4000,
        "bytes": 8000,
    }
    json.dumps(rows)


def test_few_tensors_are_left_alone() -> None:
    assert layers.tensors([Stored("a.weight", "other", "f32", 1, 4)])[0]["name"] == "a.weight"
