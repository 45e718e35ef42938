"""The cuda target: float16 graphs that hold our bits and run in onnxruntime-genai, with the folder for vLLM beside them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnxruntime_genai.models.builder_config import RUNTIME_TUNABLE_PROVIDER_OPTIONS

from deepseek_cli.deploy import find_target, outputs, verify
from deepseek_cli.deploy.engine import Deployed, deploy
from deepseek_cli.deploy.onnx_gpu import PROVIDER_OPTIONS
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import ModelUnsupported, UsageError
from deepseek_cli.handle import Bundle, ModelHandle, open_model
from deepseek_cli.ops.onnx_half import HalfOps
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.onnx_half_session import open_folder
from deepseek_cli.runtime.session import open_session
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor
from tests.conftest import Outcome
from tests.deploy.bundles import assert_genai_generates_our_tokens, built_from, flip_bit, hide
from tests.deploy.test_deepseek import OWN, TOY
from tests.toys import DEPLOYABLE, make_toy

Cli = Callable[..., Outcome]
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


def model(folder: Path, family: str = "llama", scheme: str = "int4-g32", **settings: Any) -> ModelHandle:
    """A toy, quantized; with embeddings in int8, as by default."""
    make_toy(folder / "toy", family, **{**(TOY | OWN[family] if family in OWN else DEPLOYABLE), **settings})
    store, spec = Store(folder), QuantizeSpec(scheme=scheme, report=False, algorithm="rtn")
    quantize(open_model(str(folder / "toy"), store), spec, store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


def build(handle: ModelHandle, folder: Path, level: Any = "weights") -> Deployed:
    return deploy(handle, DeploySpec("cuda", level), Store(folder), folder / "bundle", threads=1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelHandle, Bundle]]:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "NEW_TOKENS", 12)
        yield built_from(model(folder, tie_word_embeddings=True), folder, DeploySpec("cuda", "tokens"))


@pytest.fixture
def copy(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> Path:
    return shutil.copytree(built[1].root, tmp_path / "copy")


def test_both_forms_are_verified_to_their_tokens_and_what_did_not_run_them_is_said(built: tuple[ModelHandle, Bundle]) -> None:
    found = built[1].manifest.verification
    assert found and (found["level"], found["failed"]) == ("L3", False)
    names = ["structure", "weights", "logits", "tokens, activations exact", "tokens, as shipped"]
    assert sorted(c["name"] for c in found["checks"]) == sorted([*names, *(f"vllm: {name}" for name in names)])
    assert found["unrun"] == ["onnxruntime CUDA provider", "vllm"]
    assert found["runtime"].startswith("onnxruntime 1.") and "(CPU), transformers 5." in found["runtime"]
    assert built[1].manifest.readers == ("deepseek", "onnxruntime", "onnxruntime-genai", "vllm")


@pytest.mark.parametrize(
    ("family", "scheme"), [("llama", "int8"), ("qwen2", "int4-g64"), ("qwen3", "bf16"), ("qwen3", "int4-g32-asym")]
)
def test_graphs_compute_what_the_model_does(tmp_path: Path, family: str, scheme: str) -> None:
    settings = {"attention_bias": True, "mlp_bias": True} if family == "llama" else {}
    handle = model(tmp_path, family, scheme, **settings)
    done = build(handle, tmp_path, "logits")
    assert (done.verification["level"], done.verification["checks"][0]["name"]) == ("L2", "structure")
    exact = next(c for c in done.verification["checks"] if c["name"] == "logits")
    assert exact["largest_difference"] < 1e-5
    assert (tmp_path / "bundle/vllm").is_dir() != scheme.endswith("asym")  # whose zero points the graph holds alone


def test_all_but_logits_are_float16(built: tuple[ModelHandle, Bundle]) -> None:
    graph = onnx.load(built[1].root / "model.onnx", load_external_data=False).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    assert types.pop("logits") == onnx.TensorProto.FLOAT
    constants = {t.data_type for t in graph.initializer if not t.name.startswith("rotary.")}  # which are cast as it is loaded
    held = {*types.values(), *constants} & FLOATS
    assert held == {onnx.TensorProto.FLOAT16}
    assert {"MatMulNBits", "GroupQueryAttention", "GatherBlockQuantized"} <= {node.op_type for node in graph.node}


def test_float32_differs_less_than_float16_from_the_model(built: tuple[ModelHandle, Bundle]) -> None:
    """What L2 compares is the same file in float32, not float16 with a wider tolerance."""
    handle, bundle = built
    expected = outputs.expect(find_target("cuda").reference(handle, bundle.root), 96, 0, 1)
    exact, shipped = (outputs.difference(open_folder(bundle.root, handle.config, 96, 1, way), expected) for way in (True, False))
    assert 0 < exact < shipped


def test_onnxruntime_genai_generates_the_same_tokens(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    config = json.loads((copy / "genai_config.json").read_text())
    assert config["model"]["decoder"]["session_options"].pop("provider_options") == [{"cuda": {"enable_cuda_graph": "0"}}]
    (copy / "genai_config.json").write_text(json.dumps(config))  # a machine without the provider refuses it by name
    assert_genai_generates_our_tokens(replace(built[1], root=copy))


@pytest.mark.parametrize("provider", ["cuda", "NvTensorRtRtx"])
def test_options_of_providers_are_those_that_genai_knows(provider: str) -> None:
    assert {*PROVIDER_OPTIONS[provider]} == RUNTIME_TUNABLE_PROVIDER_OPTIONS[provider.lower()]


def test_an_unknown_option_and_missing_files_are_named(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    config = json.loads((copy / "genai_config.json").read_text())
    config["model"]["decoder"]["session_options"]["provider_options"][0]["cuda"]["enable_cuda_grahp"] = "1"
    (copy / "genai_config.json").write_text(json.dumps(config))
    (copy / "compose.yaml").unlink()
    shutil.rmtree(copy / "vllm")
    unexpected = find_target("cuda").unexpected(built[0], copy, 1)
    assert unexpected == ["compose.yaml", "genai_config.json: enable_cuda_grahp", "vllm"]


def test_one_changed_bit_of_the_graph_is_found(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    flip_bit(copy, "model.layers.1.mlp.down_proj.codes")
    found = verify.verify(find_target("cuda"), built[0], copy, "weights", 1)
    assert (found["level"], found["failed"]) == ("L0", True)
    wrong = [(c["name"], c["differing"]) for c in found["checks"] if not c["ok"]]
    assert wrong == [("weights", ["model.layers.1.mlp.down_proj.weight"])]


def test_one_changed_bit_of_the_folder_is_found(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    file, name = copy / "vllm/model.safetensors", "model.layers.1.mlp.down_proj.weight_packed"
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    content[8 + length + json.loads(content[8 : 8 + length])[name]["data_offsets"][0]] ^= 1
    file.write_bytes(content)
    found = verify.verify(find_target("cuda"), built[0], copy, "weights", 1)
    wrong = [(c["name"], c["differing"]) for c in found["checks"] if not c["ok"]]
    assert wrong == [("vllm: weights", ["model.layers.1.mlp.down_proj.weight"])]
    check = subprocess.run([sys.executable, "-I", copy / "check.py"], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (1, "not as they were written: vllm/model.safetensors\n")


def test_what_starts_a_server_names_the_folder(built: tuple[ModelHandle, Bundle]) -> None:
    root = built[1].root
    service = yaml.safe_load((root / "compose.yaml").read_text())["services"]["vllm"]
    source = service["volumes"][0].split(":")[0]
    assert (root / source / "config.json").is_file() and source == "./vllm"
    unit, readme = ((root / name).read_text() for name in ("deepseek-vllm.service", "README.md"))
    assert "/vllm --served-model-name" in unit and "vllm serve vllm --served-model-name" in readme
    assert "{" not in unit + readme.replace("{verification", "")


def test_without_a_folder_nothing_speaks_of_vllm(cli: Cli, tmp_path: Path) -> None:
    handle = model(tmp_path, scheme="int4-g32-asym")
    done = cli("deploy", handle.root, "--target", "cuda", "--verify", "weights", "-o", tmp_path / "bundle", "--threads", 1)
    assert (done.code, "The bundle holds no folder for vLLM. " in done.err) == (0, True)
    assert "its groups have zero points" in done.err
    names = {f.name for f in (tmp_path / "bundle").iterdir()}
    assert not names & {"vllm", "compose.yaml", "deepseek-vllm.service"}
    assert "vllm" not in (tmp_path / "bundle/README.md").read_text()


def test_latent_attention_is_refused_with_the_target_that_takes_it(cli: Cli, tmp_path: Path) -> None:
    handle = model(tmp_path, "deepseek_v2", "int8")
    for target in ("cuda", "tensorrt"):
        done = cli("deploy", handle.root, "--target", target, "-o", tmp_path / "bundle", "--json")
        assert (done.code, done.json["error"]["hint"]) == (3, "Deploy it with --target vllm.")


def test_options_of_caches_are_refused(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="The cache of a cuda bundle is float16"):
        deploy(built[0], DeploySpec("cuda", kv="fp16"), Store(tmp_path), tmp_path / "bundle")


def test_values_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy", **DEPLOYABLE)
    with torch.no_grad():
        toy.model.layers[1].mlp.up_proj.weight[3, 5] = 1e5
    toy.save_pretrained(tmp_path / "toy")
    with pytest.raises(ModelUnsupported, match=r"model\.layers\.1\.mlp\.up_proj holds values that float16 does not"):
        build(open_model(str(tmp_path / "toy"), Store(tmp_path)), tmp_path)


@pytest.mark.parametrize(("scale", "fits"), [(2.0**-14, True), (2.0**-26, False), (1 + 2.0**-12, False), (65536.0, False)])
def test_scales_that_float16_does_not_hold_exactly_are_not_carried(scale: float, fits: bool) -> None:
    weight = QuantizedTensor(torch.zeros(2, 16, dtype=torch.uint8), torch.full((2, 1), scale), 4, 32)
    assert HalfOps._unfit(object.__new__(HalfOps), weight) == ("" if fits else "its scales do not fit float16")


def test_sessions_feed_and_rewind(built: tuple[ModelHandle, Bundle]) -> None:
    session = open_session(built[1], context=200, threads=1)
    tokens = [3 + i % 200 for i in range(160)]  # more than one chunk
    whole = session.feed(tokens, keep=0).copy()
    assert (whole.dtype, whole.shape, session.position) == (np.float32, (160, 272), 160)
    assert session.kv_bytes == 2 * 2 * 2 * 16 * 2 * 160  # layers, keys and values, heads, channels, bytes, tokens
    session.rewind(10)
    np.testing.assert_allclose(session.feed(tokens[10:], keep=3), whole[-3:], atol=0.05)
    with pytest.raises(UsageError, match="do not fit in a context of 200"):
        session.feed(tokens)


def test_a_bundle_runs(cli: Cli, built: tuple[ModelHandle, Bundle]) -> None:
    done = cli("run", built[1].root, "ab", "--raw", "--max-tokens", 4, "-q")
    assert (done.code, bool(done.out), done.err) == (0, True, "")


def test_a_missing_extra_is_exit_4_and_weights_do_without(
    cli: Cli, built: tuple[ModelHandle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "compressed-tensors")
    words = ("deploy", built[0].root, "--target", "cuda", "-o", tmp_path / "bundle")
    missing = cli(*words, "--verify", "tokens", "--json")
    assert (missing.code, missing.json["error"]["code"]) == (4, "missing-extra")
    assert cli(*words, "--verify", "weights").code == 0
