"""DeepSeek's families as bundles for the cpu target: verified, read back bit for bit, run by onnxruntime-genai where it can."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from deepseek_cli.deploy import find_target, verify
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.outputs import NEW_TOKENS
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import Bundle, ModelHandle, open_any, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import SILENT
from deepseek_cli.runtime.session import open_session
from deepseek_cli.store import Store
from deepseek_cli.tensors import dense
from tests.deploy.bundles import PROMPT, assert_genai_generates_our_tokens, flip_bit
from tests.ops.test_onnx_experts import WIDE
from tests.ops.test_onnx_ops import toy
from tests.toys import DEPLOYABLE, VOCABULARY, make_toy

TOY = WIDE | {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "q_lora_rank": 32,
    "v_head_dim": 16,
    "max_position_embeddings": 256,
}
OWN: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "q_lora_rank": None},
    "deepseek_v3": {"n_group": 4, "topk_group": 2},
    "deepseek_v32": {"n_group": 4, "topk_group": 2, "index_n_heads": 16, "index_head_dim": 32, "index_topk": 100},
}


def model(folder: Path, family: str = "deepseek_v3", scheme: str = "int4-g32") -> ModelHandle:
    """A toy, quantized."""
    make_toy(folder / "toy", family, **TOY | OWN[family])
    store = Store(folder)
    quantize(open_model(str(folder / "toy"), store), QuantizeSpec(scheme=scheme, report=False), store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Bundle]:
    folder = tmp_path_factory.mktemp("built")
    handle = model(folder)
    deploy(handle, DeploySpec(latent_cache="gqa"), Store(folder), folder / "bundle", threads=1)
    bundle = open_any(str(folder / "bundle"), Store(folder))
    assert isinstance(bundle, Bundle)
    return handle, bundle


@pytest.mark.parametrize("scheme", ["int4-g32", "int8", "bf16"])
@pytest.mark.parametrize("family", list(OWN))
def test_a_bundle_is_verified_to_its_tokens(tmp_path: Path, family: str, scheme: str) -> None:
    handle = model(tmp_path, family, scheme)
    done = deploy(handle, DeploySpec(verify="tokens"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert done.verification["level"] == "L3"
    assert [c["level"] for c in done.verification["checks"]] == ["L0", "L1", "L2", "L3", "L3"]
    assert done.manifest is not None
    assert done.manifest.readers == ("deepseek", "onnxruntime")
    assert not (tmp_path / "bundle" / "genai_config.json").exists()


@pytest.mark.parametrize("form", ["plain", "gqa"])
def test_a_narrow_cache_is_verified_too(tmp_path: Path, form: Any) -> None:
    """Of dense weights: with int8 activations it is a toy's experts that change, and what they do hides the cache."""
    spec = DeploySpec(verify="tokens", kv="fp16", latent_cache=form)
    done = deploy(model(tmp_path, scheme="bf16"), spec, Store(tmp_path), tmp_path / "bundle", threads=1)
    assert done.verification["level"] == "L3"
    assert done.verification["checks"][-1]["equal"] == NEW_TOKENS
    session = open_session(open_any(str(tmp_path / "bundle"), Store(tmp_path)), threads=1)
    session.feed(PROMPT)
    assert session.kv_bytes == 2 * 2 * (TOY["kv_lora_rank"] + TOY["qk_rope_head_dim"]) * len(PROMPT)


def test_onnxruntime_genai_generates_the_same_tokens(built: tuple[ModelHandle, Bundle]) -> None:
    assert built[1].manifest.readers == ("deepseek", "onnxruntime", "onnxruntime-genai")
    assert_genai_generates_our_tokens(built[1])


@pytest.mark.parametrize(
    ("initializer", "tensor"),
    [
        ("model.layers.1.mlp.experts.fc1.codes", "model.layers.1.mlp.experts.0.gate_proj.weight"),
        ("model.layers.1.mlp.experts.fc2.scales", "model.layers.1.mlp.experts.0.down_proj.weight"),
        ("model.layers.0.self_attn.kv_b_proj.values", "model.layers.0.self_attn.kv_b_proj.weight"),
        ("model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.weight"),
    ],
)
def test_one_changed_bit_fails_and_names_its_tensor(
    built: tuple[ModelHandle, Bundle], tmp_path: Path, initializer: str, tensor: str
) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    flip_bit(copy, initializer)
    assert verify.check_weights(find_target("cpu"), built[0], copy)["differing"] == [tensor]


def test_a_sparse_attention_ends_where_its_indexer_would_choose(tmp_path: Path) -> None:
    warned: list[str] = []

    class Listener:
        note = progress = staticmethod(lambda *_, **__: None)

        def warn(self, message: str, **facts: object) -> None:
            warned.append(message.format(**facts))

    handle = model(tmp_path, "deepseek_v32")
    done = deploy(handle, DeploySpec(verify="weights"), Store(tmp_path), tmp_path / "bundle", threads=1, reporter=Listener())
    assert done.context == 100
    assert any("at most 100 tokens" in text for text in warned)
    assert open_session(open_any(str(tmp_path / "bundle"), Store(tmp_path)), threads=1).context == 100
    left = done.verification["checks"][1]["left_out"]
    assert len(left) == 2 * 5
    assert all(".indexer." in name for name in left)


def test_the_16b_models_family(tmp_path: Path) -> None:
    """transformers lacks it, so its weights are made here."""
    settings = TOY | {"kv_lora_rank": None, "norm_topk_prob": False}
    make_toy(tmp_path / "toy", "llama", **DEPLOYABLE)  # for its tokenizer
    _, _, tensors = toy("deepseek", **settings)
    for file in (tmp_path / "toy").glob("*.safetensors"):
        file.unlink()
    save_file({name: dense(ref.read()) for name, ref in tensors.items()}, tmp_path / "toy" / "model.safetensors")
    (tmp_path / "toy" / "config.json").write_text(json.dumps({"model_type": "deepseek", **settings}))
    store = Store(tmp_path)
    quantize(open_model(str(tmp_path / "toy"), store), QuantizeSpec(report=False), store, tmp_path / "quantized")
    handle = open_model(str(tmp_path / "quantized"), store)
    done = deploy(handle, DeploySpec(verify="tokens"), store, tmp_path / "bundle", threads=1, reporter=SILENT)
    assert done.verification["level"] == "L3"
    assert "onnxruntime-genai" in done.manifest.readers if done.manifest else False


def test_options_of_latents_concern_only_latents(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", "llama", **DEPLOYABLE)
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="has no latent attention"):
        deploy(open_model(str(tmp_path / "toy"), store), DeploySpec(latent_cache="gqa"), store, tmp_path / "bundle")


def test_fp8_deployed_as_it_is_says_of_every_weight_that_it_became_float32(tmp_path: Path) -> None:
    store = Store(tmp_path)
    handle = open_model("nano", store)
    done = deploy(handle, DeploySpec(verify="logits"), store, tmp_path / "bundle", threads=1)
    assert done.verification["level"] == "L2"
    assert {*done.verification["dense_fallbacks"]} == {name for name, ref in handle.stored.items() if ref.stored == "fp8"}
