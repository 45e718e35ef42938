"""What steps leave of a toy, against what the whole toy computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from deepseek_cli.compress.inputs import made_good, removal_error
from deepseek_cli.compress.plan import Steps
from deepseek_cli.compress.shape import Shape
from deepseek_cli.compress.vocabulary import STEP as VOCABULARY
from deepseek_cli.compress.write import write
from deepseek_cli.evaluate import HandlePredictor
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.reporter import SILENT
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy

MIXTURE = {
    "vocab_size": 272,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 0,
    "hidden_size": 32,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}


def open_toy(folder: Path, family: str, **settings: object) -> ModelHandle:
    make_toy(folder, family, 3, **settings)
    return open_model(str(folder), Store(folder))


def shaped(handle: ModelHandle, steps: str, folder: Path) -> Shape:
    ((_, shape),) = Steps(handle, steps, "builtin", folder, SILENT).plans()
    return shape


def logits(handle: ModelHandle, tokens: torch.Tensor) -> torch.Tensor:
    return HandlePredictor(handle, tokens).logits(0, 0, tokens.shape[1])


def test_what_is_written_computes_what_the_view_computed(tmp_path: Path) -> None:
    handle = open_toy(tmp_path / "toy", "llama", **DEPLOYABLE)
    shape = shaped(handle, "depth=50%,width=30%", tmp_path / "ranks")
    write(shape, handle, (), tmp_path / "small")
    written = open_model(str(tmp_path / "small"), Store(tmp_path))
    assert torch.equal(logits(written, shape.windows[:1]), logits(shape.handle, shape.windows[:1]))


def test_an_expert_that_gives_nothing_goes_first_and_nothing_changes(tmp_path: Path) -> None:
    groups = {"n_group": 2, "topk_group": 2, "norm_topk_prob": False}
    handle = open_toy(tmp_path / "toy", "deepseek_v3", **MIXTURE, **groups)
    tensors = dict(handle.tensors)
    for layer, experts in ((0, (1, 6)), (1, (3, 4))):  # one of each group
        for expert in experts:
            name = f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"
            tensors[name] = dataclasses.replace(tensors[name], read=lambda shape=tensors[name].shape: torch.zeros(shape))
            row = f"model.layers.{layer}.mlp.gate.e_score_correction_bias"
            bias = tensors[row].read().clone()
            bias[expert] = -100.0  # nobody's choice, so that without it tokens choose as before
            tensors[row] = dataclasses.replace(tensors[row], read=lambda bias=bias: bias)
    silent = dataclasses.replace(handle, tensors=tensors)
    shape = shaped(silent, "experts=25%", tmp_path / "ranks")
    assert [d["kept"] for d in shape.decisions] == [[0, 2, 3, 4, 5, 7], [0, 1, 2, 5, 6, 7]]
    assert (shape.handle.config.gate.experts, shape.handle.config.gate.groups) == (6, 2)
    assert torch.allclose(logits(shape.handle, shape.windows[:1]), logits(silent, shape.windows[:1]), atol=1e-5)


def test_groups_that_would_be_too_small_become_one(tmp_path: Path) -> None:
    handle = open_toy(tmp_path / "toy", "deepseek_v3", **MIXTURE, n_group=4, topk_group=2)
    gate = shaped(handle, "experts=50%", tmp_path / "ranks").handle.config.gate
    assert (gate.experts, gate.groups, gate.top_groups) == (4, 1, 1)


def test_a_layer_that_does_nothing_goes_first(tmp_path: Path) -> None:
    handle = open_toy(tmp_path / "toy", "llama", **{**DEPLOYABLE, "num_hidden_layers": 3})
    tensors = dict(handle.tensors)
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        ref = tensors[f"model.layers.1.{part}.weight"]
        tensors[ref.name] = dataclasses.replace(ref, read=lambda shape=ref.shape: torch.zeros(shape))
    idle = dataclasses.replace(handle, tensors=tensors)
    shape = shaped(idle, "depth=33%", tmp_path / "ranks")
    assert [d["layer"] for d in shape.decisions] == [1]
    assert torch.equal(logits(shape.handle, shape.windows[:1]), logits(idle, shape.windows[:1]))


def test_a_text_of_used_tokens_is_cut_as_before(tmp_path: Path) -> None:
    from deepseek_cli.compress.shape import Context

    text = tmp_path / "text.txt"
    text.write_text("The river bends, and the old bridge bends with it; nobody knows which of them began. " * 200)
    nano = open_model("nano", Store(tmp_path))
    tokenizer = open_tokenizer(nano.root)
    windows = torch.tensor([tokenizer.encode(text.read_text())[:256]])
    shape, context = Shape(nano, tokenizer, windows.repeat(4, 1)), Context(tmp_path, str(text))
    small = VOCABULARY.cut(shape, VOCABULARY.rank(shape, context), "", context)
    assert small.kept is not None and len(small.kept) < 1000
    assert small.kept[torch.tensor(small.tokenizer.encode(text.read_text()))].tolist() == tokenizer.encode(text.read_text())
    assert small.tokenizer.decode(small.tokenizer.encode("ℕ 你好 unseen")) == "ℕ 你好 unseen"
    assert {int(small.kept[end]) for end in small.tokenizer.eos} == set(tokenizer.eos)
    assert small.handle.config.vocabulary == len(small.kept) == small.handle.weights["model.embed_tokens.weight"].shape[0]


def test_channels_that_stay_make_good_for_one_that_repeats_them() -> None:
    x = torch.randn(512, 6, generator=torch.Generator().manual_seed(0))
    x[:, 4] = 2 * x[:, 1]
    hessian, weight = x.T @ x / len(x), torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    assert set(removal_error(weight, hessian).argsort()[:2].tolist()) == {1, 4}
    kept = torch.tensor([0, 1, 2, 3, 5])
    lost = x @ weight.T - x[:, kept] @ weight[:, kept].T
    left = x @ weight.T - x[:, kept] @ made_good(weight, hessian, kept).T
    assert left.norm() < 0.05 * lost.norm()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_transformers_agrees_on_what_is_left(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    settings = {k: v for k, v in DEPLOYABLE.items() if family == "llama" or k != "head_dim"}
    handle = open_toy(tmp_path / "toy", family, **settings)
    shape = shaped(handle, "depth=50%,width=30%" + (",heads=50%" if family == "llama" else ""), tmp_path / "ranks")
    write(shape, handle, (), tmp_path / "small")
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    with torch.no_grad():
        wanted = oracle(shape.windows[:1]).logits[0]
    assert torch.allclose(logits(shape.handle, shape.windows[:1]), wanted, atol=2e-4)
