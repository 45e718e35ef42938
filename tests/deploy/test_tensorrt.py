"""The tensorrt target: graphs of ONNX's own operators whose int4 weights onnx decodes to ours, and a server that answers."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime_genai
import pytest
import torch
import yaml

from deepseek_cli.deploy import find_target, outputs, verify
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.handle import Bundle, ModelHandle, open_model
from deepseek_cli.ops.onnx_half import BLOCKS, unfit_for_tensorrt
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.rtn import quantize as round_to_nearest
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.session import open_session
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor
from tests.conftest import Outcome
from tests.deploy.bundles import built_from, flip_bit
from tests.toys import DEPLOYABLE, make_toy

Cli = Callable[..., Outcome]
SIZES = {"hidden_size": 128, "intermediate_size": 192}


def model(folder: Path, family: str = "llama", scheme: str = "int4-g64-pos", **settings: Any) -> ModelHandle:
    """A toy, quantized; with embeddings in int8, as by default."""
    make_toy(folder / "toy", family, **{**DEPLOYABLE, **SIZES, **settings})
    store, spec = Store(folder), QuantizeSpec(scheme=scheme, report=False, algorithm="rtn")
    quantize(open_model(str(folder / "toy"), store), spec, store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelHandle, Bundle]]:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "NEW_TOKENS", 12)
        yield built_from(model(folder, tie_word_embeddings=True), folder, DeploySpec("tensorrt", "tokens"))


@pytest.fixture
def copy(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> Path:
    """The bundle for the CPU: a machine without the provider refuses it by name."""
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    config = json.loads((copy / "genai_config.json").read_text())
    providers = config["model"]["decoder"]["session_options"].pop("provider_options")
    assert providers == [{"NvTensorRtRtx": {"enable_cuda_graph": "1"}}]
    (copy / "genai_config.json").write_text(json.dumps(config))
    return copy


def test_a_bundle_is_verified_to_its_tokens(built: tuple[ModelHandle, Bundle]) -> None:
    found = built[1].manifest.verification
    assert found and (found["level"], found["failed"], found["unrun"]) == ("L3", False, ["TensorRT"])
    assert found["dense_fallbacks"] == ["model.embed_tokens.weight"]


@pytest.mark.parametrize(("family", "scheme"), [("qwen2", "int4-g128-pos"), ("qwen3", "bf16")])
def test_graphs_compute_what_the_model_does(tmp_path: Path, family: str, scheme: str) -> None:
    handle = model(tmp_path, family, scheme)
    done = deploy(handle, DeploySpec("tensorrt", "logits"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert (done.verification["level"], done.verification["failed"]) == ("L2", False)


def test_onnx_decodes_the_weights_to_ours(built: tuple[ModelHandle, Bundle]) -> None:
    """As TensorRT's importer wants them: int4 in one blocked dimension, float16 scales above zero, no zero points."""
    handle, bundle = built
    graph = onnx.load(bundle.root / "model.onnx").graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert len(dequantized) == 2 * 5  # q, k and v as one
    for node in dequantized:
        settings = {a.name: a.i for a in node.attribute}
        codes, scale = (onnx.numpy_helper.to_array(held[name]) for name in node.input)
        assert held[node.input[0]].data_type == onnx.TensorProto.INT4 and scale.dtype == np.float16
        assert (settings["axis"], settings["block_size"] in BLOCKS, (scale > 0).all()) == (1, True, True)
        values = codes.astype(np.float32) * scale.astype(np.float32).repeat(settings["block_size"], 1)
        names = node.name.removesuffix(".dense").split(",")
        weights = [handle.weights[f"{name}.weight"].read() for name in names]
        ours = torch.cat([w.dequantize() for w in weights if isinstance(w, QuantizedTensor)])
        np.testing.assert_array_equal(values, ours.numpy())


def test_but_for_attention_the_operators_are_those_of_onnx(built: tuple[ModelHandle, Bundle]) -> None:
    loaded = onnx.load(built[1].root / "model.onnx", load_external_data=False)
    assert {node.op_type for node in loaded.graph.node if node.domain} == {"GroupQueryAttention"}
    assert next(o.version for o in loaded.opset_import if not o.domain) >= 21  # of int4
    assert "num_logits_to_keep" not in {value.name for value in loaded.graph.input}


def test_scales_are_repeated_where_groups_do_not_divide_the_inputs() -> None:
    weight = round_to_nearest(torch.randn(8, 192), parse_scheme("int4-g128-pos"))
    assert (unfit_for_tensorrt(weight), weight.scale.shape[1]) == ("", 2)


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        ("int4-g64", "TensorRT takes no scales below zero"),
        ("int4-g64-asym", "TensorRT takes no zero points"),
        ("int4-g32-pos", "TensorRT has groups of 128 and 64, which groups of 32 cut"),
        ("int8", "TensorRT has int4 products alone"),
    ],
)
def test_what_tensorrt_refuses_is_refused_with_the_command_to_run(cli: Cli, tmp_path: Path, scheme: str, says: str) -> None:
    handle = model(tmp_path, scheme=scheme)
    done = cli("deploy", handle.root, "--target", "tensorrt", "-o", tmp_path / "bundle", "--json")
    assert (done.code, says in done.json["error"]["message"]) == (3, True)
    assert "model.layers.0.self_attn.q_proj.weight" in done.json["error"]["message"]
    assert "--scheme int4-g128-pos" in done.json["error"]["hint"]
    assert not (tmp_path / "bundle").exists()


def test_inputs_that_no_group_divides_stay_dense_and_are_listed(tmp_path: Path) -> None:
    handle = model(tmp_path, intermediate_size=96)
    done = deploy(handle, DeploySpec("tensorrt", "weights"), Store(tmp_path), tmp_path / "bundle", threads=1)
    down = {f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)}
    assert {*done.verification["dense_fallbacks"]} == {"model.embed_tokens.weight", "lm_head.weight", *down}


def test_one_changed_bit_fails_and_names_its_tensor(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    flip_bit(copy, "model.layers.1.mlp.down_proj.codes")
    check = verify.check_weights(find_target("tensorrt"), built[0], copy)
    assert (check["ok"], check["differing"]) == (False, ["model.layers.1.mlp.down_proj.weight"])


def test_another_structure_is_named(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    (copy / "serve.py").unlink()
    assert find_target("tensorrt").unexpected(built[0], copy, 1) == ["genai_config.json: provider_options", "serve.py"]


def test_sessions_give_the_logits_that_are_asked_for(built: tuple[ModelHandle, Bundle]) -> None:
    session = open_session(built[1], context=200, threads=1)
    tokens = [3 + i % 200 for i in range(160)]  # more than one chunk
    whole = session.feed(tokens, keep=0).copy()
    session.rewind(0)
    np.testing.assert_array_equal(session.feed(tokens, keep=40), whole[-40:])
    session.rewind(100)
    np.testing.assert_allclose(session.feed(tokens[100:])[0], whole[-1], atol=0.05)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    command = [sys.executable, str(folder / "serve.py"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            yield server.stdout.readline().split(" at ")[1].strip()
        finally:
            server.terminate()


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(f"{url}/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_the_server_answers_with_the_bundles_tokens(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    with serving(copy) as url:
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/health", timeout=30) as health:
            assert json.load(health) == {"status": "ok"}
        found = post(url, {"model": "any", "prompt": "ab", "max_tokens": 6})
        for wrong in ({"max_tokens": 6}, [], {"prompt": "ab", "max_tokens": "many"}, {"prompt": "a" * 256}, {"prompt": ""}):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                post(url, wrong)
    session, ours, fed = open_session(built[1], threads=1), [], [67, 68]  # ab
    for _ in range(6):
        fed = [int(session.feed(fed)[-1].argmax())]
        ours += fed
    tokenizer = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(copy)))
    assert found["choices"] == [{"index": 0, "text": tokenizer.decode(np.array(ours, np.int32)), "finish_reason": "length"}]
    assert found["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}


def test_what_starts_the_server_names_what_is_there(built: tuple[ModelHandle, Bundle]) -> None:
    root = built[1].root
    service = yaml.safe_load((root / "compose.yaml").read_text())["services"]["tensorrt"]
    assert service["volumes"] == [".:/model:ro"] and service["command"][:2] == ["python", "/model/serve.py"]
    assert "onnxruntime-ep-nv-tensorrt-rtx" in service["build"]["dockerfile_inline"]
    unit = (root / "deepseek-tensorrt.service").read_text()
    assert all(f"{kind}]" in unit for kind in ("[Unit", "[Service", "[Install")) and "/serve.py --host 127.0.0.1" in unit
    assert "{" not in unit and "%" not in unit
