"""The cpu target: bundles that prove themselves, run in onnxruntime-genai as they are, and betray every change."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deepseek_cli.deploy import TARGETS, cpu, find_target, outputs, verify
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.verify import same_bits
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import Bundle, ModelHandle, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.rtn import quantize as round_to_nearest
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from tests.conftest import Outcome
from tests.deploy.bundles import assert_genai_generates_our_tokens, built_from, flip_bit
from tests.toys import DEPLOYABLE, make_toy


def model(folder: Path, family: str = "llama", scheme: str = "int4-g32", **settings: Any) -> ModelHandle:
    """A toy, quantized."""
    make_toy(folder / "toy", family, **{**DEPLOYABLE, **settings})
    store = Store(folder)
    quantize(open_model(str(folder / "toy"), store), QuantizeSpec(scheme=scheme, report=False), store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Bundle]:
    folder = tmp_path_factory.mktemp("built")
    return built_from(model(folder, tie_word_embeddings=True), folder, DeploySpec())


@pytest.fixture
def copy(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> Path:
    return shutil.copytree(built[1].root, tmp_path / "copy")


@pytest.mark.parametrize("scheme", ["int4-g32", "int8", "bf16"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_bundle_is_verified_to_its_tokens(tmp_path: Path, family: str, scheme: str) -> None:
    settings = {"attention_bias": True, "mlp_bias": True} if family == "llama" else {}
    handle = model(tmp_path, family, scheme, **settings)
    done = deploy(handle, DeploySpec(verify="tokens"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert done.verification["level"] == "L3"
    assert not done.verification["failed"]
    assert [c["level"] for c in done.verification["checks"]] == ["L0", "L1", "L2", "L3", "L3"]


def test_the_bundle_is_complete(built: tuple[ModelHandle, Bundle]) -> None:
    names = {f.name for f in built[1].root.iterdir()}
    assert names >= {
        "README.md",
        "check.py",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "config.json",
        "genai_config.json",
        "deepseek.json",
    }
    assert "quantization_config" not in json.loads((built[1].root / "config.json").read_text())
    assert built[1].manifest.readers == ("deepseek", "onnxruntime", "onnxruntime-genai")
    assert built[1].target == "cpu"


def test_what_starts_a_server_runs_the_command_line(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """The words of both files are understood: what is missing is the model, and no word."""
    handle = model(tmp_path, "llama", "int4-g32")
    deploy(handle, DeploySpec(verify="structure", server_files=True), Store(tmp_path), tmp_path / "bundle", threads=1)
    service = yaml.safe_load((tmp_path / "bundle" / "compose.yaml").read_text())["services"]["deepseek"]
    unit = (tmp_path / "bundle" / "deepseek-serve.service").read_text()
    keys = tmp_path / "keys.txt"
    keys.write_text("0123456789abcdef\n")
    started = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).split()[1:]
    for words in (service["command"][1:], started):
        done = cli(*(str(keys) if word == "/run/secrets/keys" else word for word in words))
        assert (done.code, words[1] in done.err) == (3, True)
    assert service["volumes"] == [".:/model:ro"] and service["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]
    assert not re.search(r"{{|{%", unit)


def test_server_files_are_for_the_cpu() -> None:
    with pytest.raises(UsageError, match="vllm"):
        DeploySpec(target="vllm", server_files=True)


def test_a_bundle_checks_itself_with_python_alone(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    check = lambda: subprocess.run([sys.executable, "-I", copy / "check.py"], capture_output=True, text=True, check=False)  # noqa: E731
    assert ((done := check()).returncode, done.stdout) == (0, "all files are as they were written\n")
    flip_bit(copy, "model.layers.1.mlp.down_proj.codes")
    (copy / "config.json").unlink()
    done = check()
    assert (done.returncode, done.stderr) == (1, "not as they were written: config.json, model.onnx.data\n")


def test_onnxruntime_genai_generates_the_same_tokens(built: tuple[ModelHandle, Bundle]) -> None:
    assert_genai_generates_our_tokens(built[1])


def test_onnxruntime_genai_multiplies_in_int8_as_we_do(tmp_path: Path) -> None:
    bundle = built_from(model(tmp_path, scheme="int8"), tmp_path, DeploySpec(verify="structure", rounds_tokens=True))[1]
    assert_genai_generates_our_tokens(bundle)


def test_one_changed_bit_fails_and_names_its_tensor(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    flip_bit(copy, "model.layers.1.mlp.down_proj.codes")
    found = verify.verify(find_target("cpu"), built[0], copy, "tokens", 1)
    assert (found["level"], found["failed"]) == ("L0", True)
    assert found["checks"][-1]["differing"] == ["model.layers.1.mlp.down_proj.weight"]


def test_a_graph_of_another_model_fails_at_its_structure(built: tuple[ModelHandle, Bundle]) -> None:
    handle = replace(built[0], config=replace(built[0].config, layers=1))
    check = verify.check_structure(find_target("cpu"), handle, built[1].root, 1)
    assert not check["ok"]
    assert "past_key_values.1" in check["result"]


def test_logits_of_other_weights_fail(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", seed=1, **{**DEPLOYABLE, "tie_word_embeddings": True})
    other = open_model(str(tmp_path / "toy"), Store(tmp_path))
    open_bundle = partial(find_target("cpu").open_folder, built[1].root, other.config, outputs.CONTEXT, 1)
    checks = outputs.compare_outputs(other, open_bundle, 1, tokens=True)
    assert [(c["level"], c["ok"]) for c in checks] == [("L2", False)]


@pytest.mark.parametrize(("noise", "excused", "ok"), [(0.0, 0, False), (0.1, 1, False), (1.0, 2, True)])
def test_another_token_is_excused_only_within_noise(noise: float, excused: int, ok: bool) -> None:
    logits = np.eye(4, dtype=np.float32)

    class Fixed:
        position, context, kv_bytes = 0, 8, 0

        def rewind(self, position: int) -> None: ...

        def feed(self, tokens: list[int], keep: int = 1) -> np.ndarray:
            return logits[:1]

    expected = outputs.Expected([0], logits, [0, 1], tokens=[0, 1, 0, 2], margins=[9.0, 0.05, 9.0, 0.5])
    found = outputs.compare_tokens(Fixed(), expected, noise)
    assert (found["equal"], found["excused"], found["ok"]) == (2, excused, ok)


@pytest.mark.parametrize(
    ("free", "seconds", "slowness", "level"),
    [
        (0, 0.0, 1.0, "weights"),
        (1 << 40, 0.0, 1.0, "tokens"),
        (1 << 40, 59.0, 1.0, "tokens"),
        (1 << 40, 61.0, 1.0, "weights"),
        (1 << 40, 59.0, 20.0, "weights"),
        (1 << 40, 0.0, 1e9, "logits"),
    ],
)
def test_by_default_verification_goes_as_far_as_memory_and_time_allow(
    built: tuple[ModelHandle, Bundle], monkeypatch: pytest.MonkeyPatch, free: int, seconds: float, slowness: float, level: str
) -> None:
    monkeypatch.setattr(verify, "free_bytes", lambda: free)
    monkeypatch.setattr(verify, "seconds_for", lambda handle, tokens: seconds)
    assert verify.affordable(replace(cpu.TARGET, slowness=slowness), built[0]) == level


def test_scales_are_compared_for_each_input() -> None:
    import torch

    weight = torch.randn(8, 128)
    coarse = round_to_nearest(weight, parse_scheme("int4-g64-asym"))
    assert coarse.zero is not None
    fine = replace(coarse, group=32, scale=coarse.scale.repeat_interleave(2, 1), zero=coarse.zero.repeat_interleave(2, 1))
    assert same_bits(coarse, fine)
    assert not same_bits(coarse, replace(fine, scale=fine.scale * 2))
    assert not same_bits(coarse, replace(fine, zero=fine.zero + 1 if fine.zero is not None else None))
    assert not same_bits(replace(coarse, offset=coarse.scale), fine)
    assert not same_bits(weight, fine)


def test_short_contexts_are_verified_within_them(tmp_path: Path) -> None:
    done = deploy(model(tmp_path), DeploySpec(verify="tokens"), Store(tmp_path), tmp_path / "b", context=24, threads=1)
    assert done.verification["checks"][-1]["tokens"] == 12
    assert json.loads((tmp_path / "b" / "genai_config.json").read_text())["search"]["max_length"] == 24


def test_targets_are_found_by_name_and_unknown_ones_list_the_known() -> None:
    assert find_target("cpu").name == "cpu"
    assert all(listed.help and listed.carries and listed.verifier for listed in TARGETS.values())
    with pytest.raises(UsageError, match=r"no target named 'palm'.*auto, cpu"):
        find_target("palm")
