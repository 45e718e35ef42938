"""The metal target: MLX folders that prove themselves in mlx-lm, load there as they are, and betray every change."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from safetensors.torch import save_file

from deepseek_cli.deploy import find_target, verify
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.mlx_config import mlx_config
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import MissingExtra, ModelCorrupt, ModelUnsupported, UsageError
from deepseek_cli.fields import read_json
from deepseek_cli.formats.headers import read_header
from deepseek_cli.handle import Bundle, ModelHandle, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.session import open_session
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor, dense
from tests.deploy.bundles import PROMPT, built_from
from tests.deploy.test_deepseek import OWN, TOY
from tests.ops.test_onnx_ops import toy
from tests.toys import DEPLOYABLE, SCALINGS, make_toy

METAL = find_target("metal")
YARN: dict[str, Any] = {"rope_theta": 1e4, **SCALINGS[4]}  # its factor on cos and sin is its own
WEIGHTED: dict[str, Any] = {"rope_theta": 1e4, **SCALINGS[5], "truncate": True}


def model(folder: Path, family: str = "llama", scheme: str = "int4-g32", **settings: Any) -> ModelHandle:
    """A toy, quantized."""
    make_toy(folder / "toy", family, **{**(TOY | OWN[family] if family in OWN else DEPLOYABLE), **settings})
    return quantized(folder, scheme)


def quantized(folder: Path, scheme: str = "int4-g32", **options: Any) -> ModelHandle:
    store = Store(folder)
    spec = QuantizeSpec(scheme=scheme, report=False, **options)
    quantize(open_model(str(folder / "toy"), store), spec, store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


def deployed(handle: ModelHandle, folder: Path, level: Any = "tokens") -> dict[str, Any]:
    return deploy(handle, DeploySpec("metal", level), Store(folder), folder / "bundle", threads=1).verification


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Bundle]:
    folder = tmp_path_factory.mktemp("built")
    return built_from(model(folder, tie_word_embeddings=True), folder, DeploySpec("metal", "weights"))


@pytest.mark.parametrize(
    ("family", "scheme", "settings"),
    [
        ("llama", "int4-g32", {"attention_bias": True, "mlp_bias": True}),
        ("llama", "int4-g64", {"rope_parameters": YARN}),
        ("llama", "int8", {}),
        ("qwen2", "int4-g64-asym", {}),
        ("qwen3", "int8-g32-asym", {}),
        ("qwen3", "bf16", {}),
        ("deepseek_v2", "int4-g32", {}),
        ("deepseek_v2", "int8", {"rope_parameters": YARN}),
        ("deepseek_v3", "int4-g32", {"rope_parameters": WEIGHTED}),
        ("deepseek_v3", "int4-g32-asym", {"rope_interleave": False}),
        ("deepseek_v3", "int8", {"tie_word_embeddings": True}),
    ],
)
def test_a_bundle_is_verified_to_its_tokens(tmp_path: Path, family: str, scheme: str, settings: dict[str, Any]) -> None:
    handle = model(tmp_path, family, scheme, **settings)
    found = deployed(handle, tmp_path)
    assert (found["level"], found["failed"], found["dense_fallbacks"]) == ("L3", False, [])
    assert [check["level"] for check in found["checks"]] == ["L0", "L1", "L2", "L3", "L3"]
    assert_mlx_dequantizes_our_values(handle, tmp_path / "bundle")


def assert_mlx_dequantizes_our_values(handle: ModelHandle, folder: Path) -> None:
    held, settings = mx.load(str(folder / "model.safetensors")), read_json(folder / "config.json").get("quantization", {})
    for name, ref in handle.tensors.items():
        stem, weight = name.removesuffix(".weight"), ref.read()
        if not isinstance(weight, QuantizedTensor) or f"{stem}.scales" not in held:
            continue
        own = settings | settings.get(stem, {})
        scales, biases = (held[f"{stem}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
        values = mx.dequantize(held[name], scales, biases, own["group_size"], own["bits"])
        if handle.architecture.name != "deepseek_v3":  # whose rotated rows may lie in another order
            assert np.array_equal(np.array(values), dense(weight).numpy()), name


def test_the_first_family(tmp_path: Path) -> None:
    """transformers lacks it, so its weights are made here."""
    settings = TOY | {"kv_lora_rank": None, "norm_topk_prob": False}
    make_toy(tmp_path / "toy", "llama", **DEPLOYABLE)  # for its tokenizer
    _, _, tensors = toy("deepseek", **settings)
    save_file({name: dense(ref.read()) for name, ref in tensors.items()}, tmp_path / "toy" / "model.safetensors")
    (tmp_path / "toy" / "config.json").write_text(json.dumps({"model_type": "deepseek", **settings}))
    assert deployed(quantized(tmp_path), tmp_path)["level"] == "L3"


def test_mlx_lm_loads_the_folder_and_generates_our_tokens(built: tuple[ModelHandle, Bundle]) -> None:
    loaded, tokenizer, *_ = mlx_lm.load(str(built[1].root))
    loaded.set_dtype(mx.float32)  # a toy's margins are smaller than what bfloat16 rounds
    steps = mlx_lm.stream_generate(loaded, tokenizer, PROMPT, max_tokens=12)
    theirs = [step.token for step in steps]
    session = open_session(built[1], context=64)
    ours, fed = [], PROMPT
    for _ in theirs:
        ours.append(int(session.feed(fed)[-1].argmax()))
        fed = ours[-1:]
    assert ours == theirs


def test_a_session_forgets_and_counts(built: tuple[ModelHandle, Bundle]) -> None:
    session = open_session(built[1], context=8)
    whole = session.feed(PROMPT, keep=0)
    assert whole.shape == (len(PROMPT), DEPLOYABLE["vocab_size"]) and whole.dtype == np.float32
    assert session.kv_bytes == 2 * 2 * 2 * 16 * 4 * len(PROMPT)
    session.rewind(3)
    assert session.position == 3
    np.testing.assert_allclose(session.feed(PROMPT[3:]), whole[-1:], atol=1e-4)
    with pytest.raises(UsageError, match="do not fit in a context of 8"):
        session.feed(PROMPT)


def test_the_bundle_is_complete(built: tuple[ModelHandle, Bundle]) -> None:
    root, config = built[1].root, json.loads((built[1].root / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"]
    assert config["quantization"]["bits"] == 4 and config["quantization"]["model.embed_tokens"]["bits"] == 8
    assert not {"auto_map", "model_file", "architectures"} & config.keys()
    assert "mlx_lm.generate --model ." in (root / "README.md").read_text()
    assert built[1].manifest.readers == ("deepseek", "mlx-lm")
    assert b'"format":"mlx"' in (root / "model.safetensors").read_bytes()[:200]


@pytest.mark.parametrize("part", ["weight", "scales", "biases"])
def test_one_changed_bit_fails_and_names_its_tensor(built: tuple[ModelHandle, Bundle], tmp_path: Path, part: str) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    entry = read_header(copy / "model.safetensors")[f"model.layers.1.mlp.down_proj.{part}"]
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(entry.offset)
        byte = file.read(1)[0]
        file.seek(entry.offset)
        file.write(bytes([byte ^ 1]))
    found = verify.verify(METAL, built[0], copy, "weights", 1)
    assert (found["level"], found["failed"]) == ("L0", True)
    assert found["checks"][-1]["differing"] == ["model.layers.1.mlp.down_proj.weight"]


def test_a_config_that_says_something_else_fails_at_the_structure(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_file": "evil.py", "rope_theta": 5.0}))
    (copy / "README.md").unlink()
    assert METAL.unexpected(built[0], copy, 1) == ["config.json: model_file", "config.json: rope_theta", "README.md"]
    with pytest.raises(ModelCorrupt, match="cannot be loaded"):
        METAL.open_folder(copy, built[1].config, 8, 1, True)
    other = replace(built[0], config=replace(built[0].config, layers=1))
    assert "model.layers.1.mlp.up_proj.weight" in METAL.unexpected(other, copy, 1)


def test_what_mlx_cannot_hold_is_dense_and_listed(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", "deepseek_v3", **TOY | OWN["deepseek_v3"] | {"kv_lora_rank": 32})
    handle = quantized(tmp_path, rule=("*.kv_b_proj=int8",))
    found = deployed(handle, tmp_path)
    assert found["dense_fallbacks"] == [f"model.layers.{i}.self_attn.kv_b_proj.weight" for i in range(2)]
    assert found["level"] == "L3"


def test_fp8_is_dense_and_listed(tmp_path: Path) -> None:
    handle = open_model("nano", Store(tmp_path))
    found = deployed(handle, tmp_path, "weights")
    assert found["level"] == "L1"
    assert {*found["dense_fallbacks"]} == {name for name, ref in handle.weights.items() if ref.stored == "fp8"}


@pytest.mark.parametrize(
    ("family", "change", "says"),
    [
        ("qwen3", {"qkv_bias": True}, "no biases"),
        ("qwen2", {"head_dim": 8}, "add up to the hidden size"),
        ("deepseek_v3", {"norm_eps": 1e-5}, "norms of latents"),
        ("deepseek_v3", {"layers": 62}, "drops layer 61"),
        ("deepseek_v3", {"sparse": frozenset({0, 1, 3})}, "evenly spaced"),
        ("deepseek_v2", {"mlp_bias": True}, "MLPs have no biases"),
        ("deepseek_v32", {}, "sparse attention"),
    ],
)
def test_what_mlx_lm_computes_otherwise_is_refused(tmp_path: Path, family: str, change: dict[str, Any], says: str) -> None:
    make_toy(tmp_path / "toy", family, **(TOY | OWN[family] if family in OWN else DEPLOYABLE))
    handle = open_model(str(tmp_path / "toy"), Store(tmp_path))
    with pytest.raises(ModelUnsupported, match=says):
        mlx_config(replace(handle, config=replace(handle.config, **change)))


@pytest.mark.parametrize(
    ("family", "scaling"), [("deepseek_v2", SCALINGS[1]), ("llama", SCALINGS[5]), ("llama", {"rope_type": "frequency_factors"})]
)
def test_other_rotary_scalings_are_refused(built: tuple[ModelHandle, Bundle], family: str, scaling: dict[str, Any]) -> None:
    handle = replace(built[0], raw_config=built[0].raw_config | {"rope_parameters": scaling})
    if family != "llama":
        handle = replace(handle, architecture=replace(handle.architecture, name=family), config=LATENT)
    with pytest.raises(ModelUnsupported, match="scaling of rotary embeddings"):
        mlx_config(handle)


class LATENT:
    latent = True


def test_its_runtime_is_an_extra(built: tuple[ModelHandle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(MissingExtra, match="mlx-lm is not installed") as caught:
        deployed(built[0], tmp_path)
    assert caught.value.exit_code == 4
    assert deployed(built[0], tmp_path, "weights")["level"] == "L1"
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(MissingExtra, match="mlx-lm is not installed"):
        open_session(built[1])


def test_options_of_other_caches_are_refused(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="chooses its own cache"):
        deploy(built[0], DeploySpec("metal", kv="fp16"), Store(tmp_path), tmp_path / "bundle")
