"""The vllm target: folders that compressed-tensors unpacks to our bits and transformers runs, and files that start a server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from deepseek_cli.deploy import find_target, outputs, verify
from deepseek_cli.deploy.engine import Deployed, deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.vllm_layout import make_layout
from deepseek_cli.errors import MissingExtra, ModelUnsupported, UsageError
from deepseek_cli.handle import Bundle, ModelHandle, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.session import open_session
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor
from tests.conftest import Outcome
from tests.deploy.bundles import built_from, hide
from tests.deploy.test_deepseek import OWN, TOY
from tests.fp8_toys import add_draft
from tests.imported_toys import to_awq, to_gptq
from tests.toys import DEPLOYABLE, make_toy

Cli = Callable[..., Outcome]
UNRUN = "transformers 5.23.0, compressed-tensors 0.20.0"


def model(folder: Path, family: str = "llama", scheme: str = "int4-g32", draft: bool = False, **settings: Any) -> ModelHandle:
    """A toy, quantized; with embeddings in int8, as by default."""
    make_toy(folder / "toy", family, **{**(TOY | OWN[family] if family in OWN else DEPLOYABLE), **settings})
    if draft:
        add_draft(folder / "toy")
    store, spec = Store(folder), QuantizeSpec(scheme=scheme, report=False, algorithm="rtn")
    quantize(open_model(str(folder / "toy"), store), spec, store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


def build(handle: ModelHandle, folder: Path, level: Any = "weights") -> Deployed:
    return deploy(handle, DeploySpec("vllm", level), Store(folder), folder / "bundle", threads=1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Bundle]:
    folder = tmp_path_factory.mktemp("built")
    return built_from(model(folder, tie_word_embeddings=True), folder, DeploySpec("vllm", "tokens"))


@pytest.fixture
def copy(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> Path:
    return shutil.copytree(built[1].root, tmp_path / "copy")


def assert_unpacked_alike(handle: ModelHandle, folder: Path) -> int:
    """compressed-tensors' own unpacking gives our codes and scales; how many weights were packed."""
    found, packed = load_file(folder / "model.safetensors"), 0
    for name, ref in handle.tensors.items():
        stem, weight = name.removesuffix(".weight"), ref.read()
        if f"{stem}.weight_packed" not in found:
            continue
        assert isinstance(weight, QuantizedTensor)
        shape = torch.Size(found[f"{stem}.weight_shape"].tolist())
        codes = unpack_from_int32(found[f"{stem}.weight_packed"], weight.bits, shape)
        assert torch.equal(codes.int() + (1 << weight.bits - 1), weight.codes.int())
        scale = found[f"{stem}.weight_scale"].float()
        every = lambda values, of=shape: values.repeat_interleave(-(-of[1] // values.shape[1]), 1)  # noqa: E731
        group = weight.group if weight.group < shape[1] else shape[1]
        assert torch.equal(every(scale), weight.scale.repeat_interleave(group, 1)[:, : shape[1]])
        packed += 1
    return packed


@pytest.mark.parametrize(
    ("family", "scheme", "linears"),
    [
        ("llama", "int8", 14),
        ("qwen2", "int4-g32", 14),
        ("qwen3", "int4-g128", 14),
        ("deepseek_v2", "int8", 2 * 3 + 3 + 27),
        ("deepseek_v3", "int4-g32", 2 * 4 + 3 + 27),
        ("deepseek_v32", "int4-g64", 2 * 5 + 3 + 27),
    ],
)
def test_a_bundle_is_verified_to_its_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, scheme: str, linears: int
) -> None:
    monkeypatch.setattr(outputs, "NEW_TOKENS", 12)  # transformers takes its time over each
    handle = model(tmp_path, family, scheme)
    done = build(handle, tmp_path, "tokens")
    assert (done.verification["level"], done.verification["failed"]) == ("L3", False)
    assert done.verification["checks"][2]["largest_difference"] < 1e-5
    assert (done.verification["runtime"], done.verification["unrun"]) == (UNRUN, ["vllm"])
    wk = [name for name in handle.weights if name.endswith(".wk.weight")]
    assert {*done.verification["dense_fallbacks"]} == {"model.embed_tokens.weight", "lm_head.weight", *wk}
    assert assert_unpacked_alike(handle, tmp_path / "bundle") == linears
    assert done.manifest and done.manifest.readers == ("deepseek", "transformers", "vllm")


def test_rotated_halves_are_refused_where_vllm_would_turn_pairs(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="rotates halves") as refused:
        make_layout(model(tmp_path, "deepseek_v3", rope_interleave=False))
    assert refused.value.exit_code == 3


def test_a_tied_embedding_is_dense_and_its_head_is_no_linear(built: tuple[ModelHandle, Bundle]) -> None:
    handle, bundle = built
    assert assert_unpacked_alike(handle, bundle.root) == 14
    assert bundle.manifest.verification and bundle.manifest.verification["dense_fallbacks"] == ["model.embed_tokens.weight"]
    config = json.loads((bundle.root / "config.json").read_text())
    assert {"lm_head", "model.embed_tokens"} == {*config["quantization_config"]["ignore"]}
    assert (config["dtype"], config["architectures"]) == ("bfloat16", ["LlamaForCausalLM"])


def test_transformers_says_that_nothing_is_missing(built: tuple[ModelHandle, Bundle]) -> None:
    with torch.inference_mode():
        found, info = AutoModelForCausalLM.from_pretrained(built[1].root, dtype="auto", output_loading_info=True)
    assert not any(info.values()) and found.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(built[1].root)
    assert tokenizer.decode(tokenizer.encode("Hello, wörld")) == "Hello, wörld"


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-g64"])
def test_configs_name_what_a_product_fuses_alike(tmp_path: Path, scheme: str) -> None:
    """As vLLM looks modules up: every linear by name, one scheme for each product and for the experts of a layer."""
    handle = model(tmp_path, "deepseek_v3", scheme)
    settings = make_layout(handle).config(handle)["quantization_config"]
    config = QuantizationConfig.model_validate(settings)

    def group_of(stem: str) -> str | None:
        def named(target: str) -> bool:
            return target == stem or (target.startswith("re:") and re.match(target[3:], stem) is not None)

        groups = [key for key, group in config.config_groups.items() if any(map(named, group.targets))]
        assert len(groups) <= 1 and bool(groups) != any(map(named, config.ignore or []))
        return groups[0] if groups else None

    linears = {n.removesuffix(".weight") for n, ref in handle.stored.items() if len(ref.shape) == 2}
    found = {stem: group_of(stem) for stem in sorted(linears)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        assert found[f"{prefix}.self_attn.q_a_proj"] == found[f"{prefix}.self_attn.kv_a_proj_with_mqa"] is not None
        assert found[f"{prefix}.self_attn.kv_b_proj"] is None
    assert len({group for stem, group in found.items() if ".mlp.experts." in stem}) == 1
    assert next(iter(settings["config_groups"].values()))["targets"][0].startswith("re:model\\.layers\\.\\d+\\.mlp\\.experts")


def test_short_groups_become_equal_ones(tmp_path: Path) -> None:
    """96 inputs in groups of 64: each scale stands for 32, for all that one product computes."""
    handle = model(tmp_path, scheme="int4-g64")
    schemes = make_layout(handle).schemes
    assert schemes["model.layers.0.mlp.down_proj"].group == 32
    assert schemes["model.layers.0.mlp.gate_proj"].group == schemes["model.layers.0.mlp.up_proj"].group == 64
    assert build(handle, tmp_path).verification["level"] == "L1"


def test_how_experts_are_chosen_is_written_out(tmp_path: Path) -> None:
    """vLLM takes what DeepSeek-V2 does where a config leaves it to its family, as transformers' own do."""
    handle = model(tmp_path, "deepseek_v3")
    assert not {"topk_method", "scoring_func"} & handle.raw_config.keys()
    config = make_layout(handle).config(handle)
    assert (config["topk_method"], config["scoring_func"]) == ("noaux_tc", "sigmoid")


def test_the_layer_that_drafts_goes_with_it(tmp_path: Path) -> None:
    handle = model(tmp_path, "deepseek_v3", draft=True, num_hidden_layers=3)
    done = build(handle, tmp_path, "logits")
    assert (done.verification["level"], bool(handle.draft_weights)) == ("L2", True)
    assert load_file(tmp_path / "bundle/model.safetensors").keys() >= {"model.layers.3.eh_proj.weight_packed"}


def test_a_dense_model_passes_through(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", dtype=torch.bfloat16, **DEPLOYABLE)
    done = build(open_model(str(tmp_path / "toy"), Store(tmp_path)), tmp_path, "logits")
    assert (done.verification["level"], done.verification["dense_fallbacks"]) == ("L2", [])
    ours, theirs = (load_file(tmp_path / folder / "model.safetensors") for folder in ("bundle", "toy"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not hasattr(AutoConfig.from_pretrained(tmp_path / "bundle"), "quantization_config")


def test_an_imports_scales_choose_the_dtype(tmp_path: Path) -> None:
    """GPTQ's have eleven bits, which float16 holds and bfloat16 does not."""
    make_toy(tmp_path / "toy", **DEPLOYABLE)
    to_gptq(tmp_path / "toy", sym=True)
    handle = open_model(str(tmp_path / "toy"), Store(tmp_path))
    assert build(handle, tmp_path, "logits").verification["level"] == "L2"
    assert assert_unpacked_alike(handle, tmp_path / "bundle") == 14
    assert json.loads((tmp_path / "bundle/config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (to_awq, "its groups have zero points"),
        (lambda folder: to_gptq(folder, sym=True, act_order=True), "act-order"),
    ],
)
def test_what_vllm_cannot_take_is_refused_with_the_command_to_run(
    cli: Cli, tmp_path: Path, change: Callable[[Path], Any], says: str
) -> None:
    make_toy(tmp_path / "toy", **DEPLOYABLE)
    change(tmp_path / "toy")
    done = cli("deploy", tmp_path / "toy", "--target", "vllm", "-o", tmp_path / "bundle", "--json")
    assert (done.code, says in done.json["error"]["message"]) == (3, True)
    hint = done.json["error"]["hint"]
    assert "deepseek quantize toy --int4" in hint
    assert ("deepseek compress … --set zero_points=false" in hint) == ("zero points" in says)
    assert not (tmp_path / "bundle").exists()


def test_zero_points_of_ours_are_refused_too(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match=r"model\.layers\.0\.self_attn\.q_proj\.weight: its groups have zero points"):
        build(model(tmp_path, scheme="int4-g32-asym"), tmp_path)


def test_options_of_caches_are_refused(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vLLM keeps its own cache"):
        deploy(built[0], DeploySpec("vllm", kv="fp16"), Store(tmp_path), tmp_path / "bundle")


@pytest.mark.parametrize("part", ["weight_packed", "weight_scale"])
def test_one_changed_bit_fails_and_names_its_tensor(built: tuple[ModelHandle, Bundle], copy: Path, part: str) -> None:
    file, name = copy / "model.safetensors", f"model.layers.1.mlp.down_proj.{part}"
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    content[8 + length + json.loads(content[8 : 8 + length])[name]["data_offsets"][0]] ^= 1
    file.write_bytes(content)
    found = verify.verify(find_target("vllm"), built[0], copy, "tokens", 1)
    assert (found["level"], found["failed"]) == ("L0", True)
    assert found["checks"][-1]["differing"] == ["model.layers.1.mlp.down_proj.weight"]


def test_another_structure_is_named(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"]["ignore"] = []
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "compose.yaml").unlink()
    missing = find_target("vllm").unexpected(built[0], copy, 1)
    assert missing == ["compose.yaml", "config.json: quantization_config"]


def test_what_starts_a_server_names_what_is_there(built: tuple[ModelHandle, Bundle]) -> None:
    root = built[1].root
    service = yaml.safe_load((root / "compose.yaml").read_text())["services"]["vllm"]
    source, _, mode = service["volumes"][0].split(":")
    assert ((root / source / "config.json").is_file(), mode) == (True, "ro")
    assert {"--model=/model", "--max-model-len=256", "--port=8000"} <= {*service["command"]}
    assert service["ports"] == ["127.0.0.1:${PORT:-8000}:8000"] and "8000/health" in service["healthcheck"]["test"][-1]
    unit, readme = ((root / name).read_text() for name in ("deepseek-vllm.service", "README.md"))
    name = next(word.partition("=")[2] for word in service["command"] if word.startswith("--served-model-name"))
    assert re.fullmatch(r"[\w.-]+", name) and f"/srv/models/{name} --served-model-name {name} " in unit
    assert all(f"{kind}]" in unit for kind in ("[Unit", "[Service", "[Install")) and "%" not in unit
    lines = readme.split("```")[1].strip().splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["pip", "vllm", "curl"]
    assert all((root / name).is_file() for name in re.findall(r"`([\w-]+\.\w+)`", readme))
    assert not re.search(r"{{|{%", unit + readme)


def test_sessions_feed_and_rewind(built: tuple[ModelHandle, Bundle]) -> None:
    session = open_session(built[1], context=40, threads=1)
    tokens = list(range(3, 33))
    whole = session.feed(tokens, keep=0).copy()
    assert (whole.dtype, whole.shape, session.position) == (np.float32, (30, 272), 30)
    assert session.kv_bytes == 2 * 2 * 2 * 16 * 2 * 30  # layers, keys and values, heads, channels, bytes, tokens
    session.rewind(10)
    assert session.position == 10
    np.testing.assert_allclose(session.feed(tokens[10:], keep=3), whole[-3:], atol=0.1)
    session.rewind(0)
    assert (session.kv_bytes, session.feed(tokens).shape) == (0, (1, 272))
    with pytest.raises(UsageError, match="do not fit in a context of 40"):
        session.feed(tokens)


def test_a_bundle_runs(cli: Cli, built: tuple[ModelHandle, Bundle]) -> None:
    done = cli("run", built[1].root, "ab", "--raw", "--max-tokens", 4, "-q")
    assert (done.code, bool(done.out), done.err) == (0, True, "")


def test_the_command_says_what_did_not_run_it(cli: Cli, built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    ran = cli("deploy", built[0].root, "--target", "vllm", "--verify", "logits", "-o", tmp_path / "a", "--threads", 1)
    assert f"vllm itself has not run it: {UNRUN} stood in." in ran.out
    weights = cli("deploy", built[0].root, "--target", "vllm", "--verify", "weights", "-o", tmp_path / "b")
    assert "vllm itself has not run it.\n" in weights.out
    assert "14 of 14 packed weights, such as model.layers.0.self_attn.q_proj.weight, need another kernel than Marlin" in ran.err
    assert "Loading" not in ran.err and "Decompressing" not in ran.err


def test_a_missing_extra_is_exit_4_and_says_how_to_install_it(
    cli: Cli, built: tuple[ModelHandle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "compressed-tensors")
    words = ("deploy", built[0].root, "--target", "vllm", "-o", tmp_path / "bundle")
    missing = cli(*words, "--verify", "tokens", "--json")
    assert (missing.code, missing.json["error"]["code"]) == (4, "missing-extra")
    assert "pip install 'deepseek-cli[vllm]'" in missing.json["error"]["hint"]
    assert cli(*words, "--verify", "weights").code == 0
    with pytest.raises(MissingExtra):
        open_session(built[1], threads=1)


def test_a_family_that_transformers_lacks_is_refused_by_name(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "deepseek"}))
    with pytest.raises(ModelUnsupported, match="transformers has no model for"):
        open_session(replace(built[1], root=copy), threads=1)
