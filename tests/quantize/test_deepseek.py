"""DeepSeek's mixtures: what is protected, experts as one item, FP8 straight to integers, the drafting layer carried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.manifest import list_files
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.rtn import quantize as round_to_nearest
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import Silent
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor, dense
from tests.fp8_toys import DEEPSEEK, add_draft, to_fp8
from tests.toys import make_toy

EXTRA: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"topk_method": "group_limited_greedy"},
    "deepseek_v3": {},
    "deepseek_v32": {"index_n_heads": 4, "index_head_dim": 32, "index_topk": 64},
}


def toy(folder: Path, family: str = "deepseek_v3", draft: bool = False, **settings: Any) -> ModelHandle:
    make_toy(folder, family, **{**DEEPSEEK, **EXTRA[family], **settings})
    if draft:
        add_draft(folder)
    return open_model(str(folder), Store(folder))


def run(handle: ModelHandle, out: Path, **options: Any) -> Quantized:
    return quantize(handle, QuantizeSpec(**{"report": False, "algorithm": "rtn", **options}), Store(out.parent), out)


def schemes(handle: ModelHandle, **options: Any) -> dict[str, str]:
    plan = make_plan(handle, QuantizeSpec(**options))
    return {i.name.removesuffix(".weight"): "kept" if i.kept else str(i.scheme) for i in plan.items}


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_what_every_target_splits_or_feels_most_is_protected(tmp_path: Path) -> None:
    handle = toy(tmp_path, draft=True)
    found = schemes(handle)
    for layer in ("model.layers.1", "model.layers.3"):
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        assert found[f"{attention}.kv_b_proj"] == "bf16"
        assert found[f"{attention}.q_a_proj"] == found[f"{attention}.kv_a_proj_with_mqa"] == "int8-channel"
        assert found[f"{attention}.q_b_proj"] == found[f"{attention}.o_proj"] == "int4-g32"
        assert found[f"{mlp}.experts.7.down_proj"] == found[f"{mlp}.shared_experts.up_proj"] == "int4-g32"
        assert found[f"{mlp}.gate"] == found[f"{mlp}.gate.e_score_correction_bias"] == found[f"{layer}.input_layernorm"] == "kept"
    assert found["model.layers.0.mlp.up_proj"] == found["model.layers.3.eh_proj"] == "int4-g32"
    assert found["model.layers.3.enorm"] == found["model.layers.3.shared_head.norm"] == "kept"
    assert make_plan(handle, QuantizeSpec()).fallbacks == []  # a rule, not a failure
    assert found.keys() == {name.removesuffix(".weight") for name in handle.stored}


def test_the_indexer(tmp_path: Path) -> None:
    found = schemes(toy(tmp_path, "deepseek_v32"))
    indexer = "model.layers.0.self_attn.indexer"
    assert found[f"{indexer}.wq_b"] == found[f"{indexer}.wk"] == "int4-g32"
    assert found[f"{indexer}.weights_proj"] == found[f"{indexer}.k_norm"] == found[f"{indexer}.k_norm.bias"] == "kept"


def test_protection_never_lowers_what_was_asked_for(tmp_path: Path) -> None:
    handle = toy(tmp_path)
    assert schemes(handle, scheme="int8-g32")["model.layers.0.self_attn.kv_a_proj_with_mqa"] == "int8-g32"
    assert schemes(handle, scheme="int8-g32")["model.layers.0.self_attn.kv_b_proj"] == "bf16"
    assert set(schemes(handle, scheme="bf16").values()) == {"bf16", "kept"}
    assert schemes(handle, rule=("*.kv_b_proj=int8",))["model.layers.0.self_attn.kv_b_proj"] == "int8-channel"


def test_queries_without_a_latent_have_a_scheme_of_their_own(tmp_path: Path) -> None:
    found = schemes(toy(tmp_path, q_lora_rank=None))
    assert found["model.layers.0.self_attn.q_proj"] == "int4-g32"
    assert found["model.layers.0.self_attn.kv_a_proj_with_mqa"] == "int8-channel"


def test_each_part_by_its_own_rule(tmp_path: Path) -> None:
    rules = ("*.experts.*=int4-g64", "*.shared_experts.*=int8", "*.layers.0.mlp.*=bf16", "*.layers.2.mlp.experts.*=int8-g32")
    found = schemes(toy(tmp_path), rule=rules)
    assert found["model.layers.1.mlp.experts.3.up_proj"] == "int4-g64"
    assert found["model.layers.2.mlp.experts.3.up_proj"] == "int8-g32"
    assert found["model.layers.1.mlp.shared_experts.up_proj"] == "int8-channel"
    assert found["model.layers.0.mlp.up_proj"] == "bf16"


@pytest.mark.parametrize("rule", ["*.experts.5.*=int8", "*.experts.*.down_proj=int8", "*.1.mlp.experts.[0-3].*=bf16"])
def test_a_rule_that_splits_experts_is_refused_in_one_sentence(tmp_path: Path, rule: str) -> None:
    with pytest.raises(UsageError, match=r"gives model.*different schemes") as caught:
        schemes(toy(tmp_path), rule=(rule,))
    assert rule in str(caught.value)
    assert len(str(caught.value)) < 350


def test_a_rule_that_splits_the_latents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="different schemes"):
        schemes(toy(tmp_path), rule=("*.q_a_proj=int4",))


class Warnings(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str, **facts: object) -> None:
        self.said.append(message.format(**facts))


def test_experts_stay_dense_together_and_that_is_said_once(tmp_path: Path) -> None:
    handle, said = toy(tmp_path, moe_intermediate_size=24, n_shared_experts=4), Warnings()
    done = quantize(handle, QuantizeSpec(), Store(tmp_path), tmp_path / "q", dry_run=True, reporter=said)
    dense_ones = {i.name for i in done.plan.fallbacks}
    assert dense_ones == {name for name in handle.stored if ".experts." in name}
    assert any("experts.*.down_proj.weight stays dense: its 24 inputs" in text for text in said.said)
    assert len(said.said) == 3


@pytest.mark.parametrize("scheme", ["int4-g32", "int8", "int4-g64-asym"])
def test_fp8_goes_straight_to_integers(tmp_path: Path, scheme: str, two_threads: None) -> None:
    toy(tmp_path / "v3", draft=True)
    values = to_fp8(tmp_path / "v3")
    handle = open_model(str(tmp_path / "v3"), Store(tmp_path))
    run(handle, tmp_path / "q", scheme=scheme)
    written = open_model(str(tmp_path / "q"), Store(tmp_path))
    assert written.stored.keys() == handle.stored.keys()
    for name, ref in written.stored.items():
        found = ref.read()
        if isinstance(found, QuantizedTensor):
            wanted = round_to_nearest(values[name], parse_scheme(ref.stored))
            assert torch.equal(found.packed, wanted.packed) and torch.equal(found.scale, wanted.scale), name
        else:
            assert isinstance(found, torch.Tensor)
            assert torch.equal(found.float(), values[name].to(found.dtype).float()), name


@pytest.mark.parametrize("family", EXTRA)
def test_what_is_written_runs_and_stays_near_its_source(tmp_path: Path, family: str, two_threads: None) -> None:
    toy(tmp_path / "model", family)
    to_fp8(tmp_path / "model")
    source = open_model(str(tmp_path / "model"), Store(tmp_path))
    run(source, tmp_path / "q", scheme="int8-g32", embeddings="int8-g32")
    tokens = torch.arange(3, 60).tolist()
    wanted, found = (
        torch.from_numpy(TorchSession(handle, 64).feed(tokens, keep=0)).clone()
        for handle in (source, open_model(str(tmp_path / "q"), Store(tmp_path)))
    )
    error = (found - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert error.median() < 0.1  # here and there another expert is chosen


def test_the_drafting_layer_is_carried(tmp_path: Path) -> None:
    handle = toy(tmp_path / "v3", draft=True)
    done = run(handle, tmp_path / "q", int4=True)
    written = open_model(str(tmp_path / "q"), Store(tmp_path))
    assert written.draft_weights.keys() == handle.draft_weights.keys() != set()
    assert written.draft_weights["model.layers.3.mlp.experts.0.up_proj.weight"].stored == "int4-g32"
    assert done.size_bytes == sum(ref.size_bytes for ref in written.stored.values())


def test_fp8_with_powers_of_two_is_bf16_without_loss(tmp_path: Path) -> None:
    toy(tmp_path / "v3", draft=True)
    values = to_fp8(tmp_path / "v3", scale_fmt="ue8m0")
    run(open_model(str(tmp_path / "v3"), Store(tmp_path)), tmp_path / "dense", scheme="bf16")
    written = open_model(str(tmp_path / "dense"), Store(tmp_path))
    assert "quantization_config" not in written.raw_config
    for name in values.keys() & written.stored.keys():
        if f"{name}_scale_inv" in open_model(str(tmp_path / "v3"), Store(tmp_path)).tensors or ".experts." in name:
            assert written.stored[name].stored == "bf16"
            assert torch.equal(dense(written.stored[name].read()).float(), values[name])


def test_threads_change_nothing(tmp_path: Path) -> None:
    handle, digests = toy(tmp_path / "v3"), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        run(handle, tmp_path / str(threads), int4=True)
        assert torch.get_num_threads() == threads
        files = list_files(tmp_path / str(threads))
        digests.append([f["sha256"] for f in files])
    torch.set_num_threads(1)
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("family", EXTRA)
@pytest.mark.parametrize("options", [{"int4": True}, {"int8": True}, {"int4": True, "rule": ("*.experts.*=int8",)}])
def test_transformers_reads_the_same_experts(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    """It holds experts in bfloat16, whatever is asked for."""
    done = run(toy(tmp_path / "model", family), tmp_path / "q", embeddings="bf16", **options)
    assert done.manifest is not None
    assert "transformers" in done.manifest.readers
    assert ("vllm" in done.manifest.readers) == (family != "deepseek_v32")
    oracle, info = AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    ours = open_model(str(tmp_path / "q"), Store(tmp_path))
    state = oracle.state_dict()
    for layer in (1, 2):
        prefix = f"model.layers.{layer}.mlp.experts"
        for expert in range(8):
            part = {p: dense(ours.tensors[f"{prefix}.{expert}.{p}_proj.weight"].read()) for p in ("gate", "up", "down")}
            both = torch.cat((part["gate"], part["up"]))
            assert torch.equal(state[f"{prefix}.gate_up_proj"][expert].float(), both.bfloat16().float())
            assert torch.equal(state[f"{prefix}.down_proj"][expert].float(), part["down"].bfloat16().float())
    tokens = torch.arange(3, 60)[None]
    with torch.inference_mode():
        wanted = oracle(tokens).logits[0]
    found = torch.from_numpy(TorchSession(ours, 64).feed(tokens[0].tolist(), keep=0))
    assert (found - wanted).abs().max() <= 0.03 * (wanted.max() - wanted.min())
