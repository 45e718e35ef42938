"""Bundles whose dense weights are in another float type than the model's: as wide as asked for, and verified as others are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.deploy import find_target
from deepseek_cli.deploy.engine import deploy, verify_again
from deepseek_cli.deploy.precision import in_precision
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import ModelUnsupported, UsageError
from deepseek_cli.formats.gguf import read_gguf
from deepseek_cli.formats.safetensors import read_folder
from deepseek_cli.handle import Bundle, ModelHandle, open_any, open_model
from deepseek_cli.store import Store
from tests.deploy.test_gguf import merging_tokenizer
from tests.toys import DEPLOYABLE, make_toy

EMBEDDING = "model.embed_tokens.weight"
STORED = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    folder = tmp_path_factory.mktemp("model")
    make_toy(folder / "toy", **DEPLOYABLE)
    merging_tokenizer().save(str(folder / "toy" / "tokenizer.json"))
    return open_model(str(folder / "toy"), Store(folder))


def built(handle: ModelHandle, folder: Path, target: str, precision: Any, verify: Any = "tokens") -> Bundle:
    spec = DeploySpec(target, verify=verify, precision=precision)
    done = deploy(handle, spec, Store(folder), folder / "bundle", threads=1)
    assert not done.verification["failed"]
    opened = open_any(str(folder / "bundle"), Store(folder))
    assert isinstance(opened, Bundle)
    return opened


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("target", ["vllm", "gguf", "openvino"])
def test_it_is_verified_to_its_tokens(handle: ModelHandle, tmp_path: Path, target: str, precision: str) -> None:
    bundle = built(handle, tmp_path, target, precision)
    assert bundle.manifest.verification and bundle.manifest.verification["level"] == "L3"
    assert not verify_again(bundle, handle, 1)["failed"]


@pytest.mark.parametrize("target", ["vllm", "metal"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_folder_holds_what_was_asked_for(handle: ModelHandle, tmp_path: Path, target: str, precision: str) -> None:
    bundle = built(handle, tmp_path, target, precision, "weights")
    assert {ref.stored for ref in read_folder(bundle.root).values()} == {STORED[precision]}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gguf_file_holds_matrices_in_it(handle: ModelHandle, tmp_path: Path, precision: str) -> None:
    bundle = built(handle, tmp_path, "gguf", precision, "weights")
    tensors = read_gguf(bundle.root / "model.gguf").tensors
    assert {t.stored for t in tensors.values() if len(t.shape) > 1} == {STORED[precision]}


@pytest.mark.parametrize("target", ["cpu", "web", "cuda", "tensorrt", "mobile"])
def test_targets_of_one_type_refuse_a_choice(handle: ModelHandle, tmp_path: Path, target: str) -> None:
    assert find_target(target).precisions == ()
    with pytest.raises(UsageError, match="has one type"):
        deploy(handle, DeploySpec(target, precision="bf16"), Store(tmp_path), tmp_path / "bundle")


def test_values_beyond_float16_are_refused_by_name(handle: ModelHandle, tmp_path: Path) -> None:
    values = handle.tensors[EMBEDDING].read()
    assert isinstance(values, torch.Tensor)
    narrow = in_precision(handle, "fp16").tensors[EMBEDDING].read()
    assert torch.equal(narrow, values.half())
    values[0, 0] = 1e6  # a private mapping: the file stays as it is
    with pytest.raises(ModelUnsupported, match="embed_tokens"):
        in_precision(handle, "fp16").tensors[EMBEDDING].read()
