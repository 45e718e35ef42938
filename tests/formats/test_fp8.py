"""FP8 block checkpoints against a plainly written decoder: ragged edges, scales of every kind, in any shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepseek_cli import e4m3
from deepseek_cli.errors import ModelCorrupt, ModelError, ModelUnsupported
from deepseek_cli.formats import quantized, safetensors
from deepseek_cli.handle import open_model
from deepseek_cli.store import Store
from deepseek_cli.tensors import Fp8Tensor, TensorRef, dense, take_rows
from tests.fp8_toys import decode, to_fp8
from tests.toys import DEPLOYABLE, make_toy, random_deepseek_settings

CODES = torch.arange(256, dtype=torch.uint8).view(16, 16)


def test_every_code_is_what_pytorch_says() -> None:
    found = e4m3.decode(CODES, torch.ones(16, 1), 16)
    assert torch.equal(found.nan_to_num(7e7), CODES.view(torch.float8_e4m3fn).float().nan_to_num(7e7))
    assert found.isnan().sum() == 2


@pytest.mark.parametrize("shape", [(1, 1), (16, 32), (17, 33), (128, 128), (576, 200), (5, 700)])
@pytest.mark.parametrize("block", [(16, 32), (128, 128), (1, 7)])
def test_ragged_blocks(shape: tuple[int, int], block: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape).to(torch.float8_e4m3fn)
    scale = torch.rand(-(-shape[0] // block[0]), -(-shape[1] // block[1])) * 1e-3
    rows = scale.repeat_interleave(block[0], 0)[: shape[0]]
    tensor = Fp8Tensor(weight.view(torch.uint8), rows, block[1])
    exact = decode(weight, scale, block)
    assert torch.equal(tensor.dequantize(), exact)
    order = torch.randperm(shape[0])
    assert torch.equal(dense(take_rows(tensor, order)), exact[order])


def opened(folder: Path, **settings: Any) -> dict[str, TensorRef]:
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 32], **settings}}
    return quantized.assemble(safetensors.read_folder(folder), config, folder / "config.json")


@pytest.mark.parametrize("shards", [True, False])
@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_a_checkpoint_reads_as_the_plain_decoder_does(tmp_path: Path, family: str, shards: bool) -> None:
    settings = DEPLOYABLE if family == "llama" else random_deepseek_settings(family, 3)
    make_toy(tmp_path, family, **settings)
    values = to_fp8(tmp_path, shards=shards)
    handle = open_model(str(tmp_path), Store(tmp_path))
    found = handle.stored
    assert sum(ref.stored == "fp8" for ref in found.values()) > 10
    for name, ref in found.items():
        assert torch.equal(dense(ref.read()).float(), values[name]), name
        ref.release()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_powers_of_two_may_be_stored_as_exponents(tmp_path: Path, dtype: torch.dtype) -> None:
    weight, scale = torch.randn(40, 50).to(torch.float8_e4m3fn), torch.tensor([[0.5, 2**-20], [4, 2**-100], [1, 1]])
    save_file({"a.weight": weight, "a.weight_scale_inv": scale.to(dtype)}, tmp_path / "model.safetensors")
    ref = opened(tmp_path, scale_fmt="ue8m0")["a.weight"]
    assert torch.equal(dense(ref.read()), decode(weight, scale, (16, 32)))
    assert ref.size_bytes == 2000 + 6 * dtype.itemsize


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight_block_size": [32, 32]}, "a.weight_scale_inv has shape .3, 2.; blocks of .32, 32. over .40, 50. want .2, 2."),
        ({"weight_block_size": [128]}, "weight_block_size must be two positive integers"),
        ({"weight_block_size": None}, "weight_block_size must be two positive integers"),
        ({"weight_block_size": [0, 32]}, "weight_block_size must be two positive integers"),
        ({"fmt": "e5m2"}, "quantization_config.fmt e5m2 is not supported"),
        ({"scale_fmt": "fp4"}, "quantization_config.scale_fmt fp4 is not supported"),
        ({"quant_method": "hqq"}, "quantization hqq is not supported"),
        ({"quant_method": ["fp8"]}, "is not supported"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    save_file(
        {"a.weight": torch.zeros(40, 50).to(torch.float8_e4m3fn), "a.weight_scale_inv": torch.ones(3, 2)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ModelError, match=says) as caught:
        opened(tmp_path, **change)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"a.weight_scale_inv": None}, "a.weight is FP8 and has no a.weight_scale_inv"),
        ({"a.weight_scale_inv": torch.ones(3, 3)}, "a.weight_scale_inv has shape"),
        ({"a.weight_scale_inv": torch.ones(6)}, "a.weight_scale_inv has shape"),
        ({"a.weight_scale_inv": torch.ones(3, 2, dtype=torch.int32)}, "a.weight_scale_inv has dtype i32"),
        ({"a.weight": torch.zeros(40, 50)}, "a.weight_scale_inv scales a weight that is missing or not FP8"),
        ({"a.weight": None}, "a.weight_scale_inv scales a weight that is missing"),
        ({"b.weight": torch.zeros(3, 3).to(torch.float8_e4m3fn)}, "b.weight is FP8 and has no b.weight_scale_inv"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    tensors = {"a.weight": torch.zeros(40, 50).to(torch.float8_e4m3fn), "a.weight_scale_inv": torch.ones(3, 2)} | change
    save_file({k: v for k, v in tensors.items() if v is not None}, tmp_path / "model.safetensors")
    with pytest.raises(ModelCorrupt, match=says):
        opened(tmp_path)


def test_fp8_without_a_quantization_config_is_refused(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(4, 5).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelCorrupt, match=r"a\.weight is FP8"):
        quantized.assemble(safetensors.read_folder(tmp_path), {}, tmp_path / "config.json")


def test_the_other_float8_is_named(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(4, 5).to(torch.float8_e5m2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelUnsupported, match=r"a\.weight has dtype F8_E5M2"):
        opened(tmp_path)


def test_released_pages_read_the_same_again(tmp_path: Path) -> None:
    make_toy(tmp_path, **DEPLOYABLE)
    to_fp8(tmp_path, shards=False)
    assert load_file(tmp_path / "model.safetensors")
    ref = next(r for r in open_model(str(tmp_path), Store(tmp_path)).stored.values() if r.stored == "fp8")
    before = dense(ref.read())
    ref.release()
    assert torch.equal(dense(ref.read()), before)
