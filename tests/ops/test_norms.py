"""Which norms feed one product alone: there, and only there, a scale can move behind the norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.architectures.llama import LLAMA
from deepseek_cli.handle import open_model
from deepseek_cli.ops import Architecture
from deepseek_cli.ops.norms import sole_readers
from deepseek_cli.store import Store
from tests.fp8_toys import DEEPSEEK, add_draft
from tests.toys import DEPLOYABLE, make_toy


def readers(folder: Path, family: str, **settings: Any) -> dict[str, list[str]]:
    """By norm; all without `model.layers.`"""
    make_toy(folder, family, **settings)
    if family == "deepseek_v3":
        add_draft(folder)
    handle = open_model(str(folder), Store(folder))
    short = lambda name: name.removeprefix("model.layers.")  # noqa: E731
    found = sole_readers(handle.architecture, handle.config).items()
    return {short(norm): [short(name).rpartition(".")[2] for name in names] for names, norm in found}


def test_llama_qwen3(tmp_path: Path) -> None:
    assert readers(tmp_path, "qwen3", **DEPLOYABLE) == {
        f"{i}.{norm}": names
        for i in range(2)
        for norm, names in (
            ("input_layernorm", ["q_proj", "k_proj", "v_proj"]),
            ("post_attention_layernorm", ["gate_proj", "up_proj"]),
        )
    }


LATENTS = {f"{i}.input_layernorm": ["q_a_proj", "kv_a_proj_with_mqa"] for i in range(3)}
QUERIES = {f"{i}.self_attn.q_a_layernorm": ["q_b_proj"] for i in range(3)}
DENSE = {"0.post_attention_layernorm": ["gate_proj", "up_proj"]}
INDEX = {"index_n_heads": 4, "index_head_dim": 32, "index_topk": 64}


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("deepseek_v3", {}, LATENTS | QUERIES | DENSE),  # not where there are experts, nor in the layer that drafts
        ("deepseek_v3", {"q_lora_rank": None}, DENSE),  # queries and latents are two products
        ("deepseek_v32", INDEX, DENSE),  # the indexer reads both norms
    ],
)
def test_deepseek(tmp_path: Path, family: str, settings: dict[str, Any], expected: dict[str, list[str]]) -> None:
    assert readers(tmp_path, family, **{**DEEPSEEK, **settings}) == expected


def block_twice(ops: Any, config: Any, x: Any, i: int) -> Any:
    """One norm used twice, weights shared by two norms, and a norm whose output goes on."""
    a, b = (ops.linear(ops.rms_norm(x, "twice", 1e-5), name) for name in ("a", "b"))
    ops.linear(ops.rms_norm(ops.add(a, b), "one", 1e-5), "shared")
    ops.gated_mlp(ops.rms_norm(x, "other", 1e-5), "gate", "up", "shared")
    return ops.rms_norm(x, "last", 1e-5)


def test_what_is_shared_is_left_alone(tmp_path: Path) -> None:
    make_toy(tmp_path, **{**DEPLOYABLE, "num_hidden_layers": 1})
    config = open_model(str(tmp_path), Store(tmp_path)).config
    odd = Architecture("odd", LLAMA.read_config, LLAMA.weights, LLAMA.embed, block_twice, LLAMA.norm, LLAMA.head)
    assert sole_readers(odd, config) == {("gate", "up"): "other"}
