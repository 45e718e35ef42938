"""GGUF against ggml's own Python package (bytes and values) and transformers (what a whole model computes)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats.gguf import read_gguf, weight
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from deepseek_cli.tensors import BlockTensor, QuantizedTensor, Weight, dense
from tests.gguf_toys import HALVES, file_bytes, finish, random_blocks, write_toy
from tests.gguf_toys import tensor as tensor_info
from tests.toys import make_toy

TOKENS = [3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 7, 7]
SMALL: dict[str, Any] = {
    "vocab_size": 272,
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


# tensors


def written(path: Path, kind: Type, data: np.ndarray) -> Weight:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("padding", np.zeros(3, np.float32))  # so that the tensor does not begin where data begins
    writer.add_tensor("x", data, raw_dtype=kind)
    file = read_gguf(finish(writer, path))
    return weight(file, file.tensors["x"])


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0])
def test_what_ggml_quantizes_has_the_values_that_ggml_says(tmp_path: Path, kind: Type) -> None:
    values = np.random.default_rng(1).normal(size=(6, 96)).astype(np.float32)
    data = gguf.quants.quantize(values, kind)
    np.testing.assert_array_equal(
        dense(written(tmp_path / "x.gguf", kind, data)).float().numpy(), gguf.quants.dequantize(data, kind)
    )


@pytest.mark.parametrize("kind", HALVES, ids=lambda kind: kind.name)
def test_random_blocks_have_the_values_that_ggml_says(tmp_path: Path, kind: Type) -> None:
    data = random_blocks(kind, rows=5, inputs=512)
    found = dense(written(tmp_path / "x.gguf", kind, data))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), gguf.quants.dequantize(data, kind), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "bits"), [(Type.Q4_0, 4), (Type.Q4_1, 4), (Type.Q8_0, 8)], ids=str)
def test_groups_of_32_become_codes_and_scales(tmp_path: Path, kind: Type, bits: int) -> None:
    found = written(tmp_path / "x.gguf", kind, random_blocks(kind, 3, 64))
    assert isinstance(found, QuantizedTensor)
    assert (found.bits, found.group, found.shape, found.scale.shape) == (bits, 32, (3, 64), (3, 2))
    assert (found.offset is not None) == (kind is Type.Q4_1)
    assert found.zero is None


@pytest.mark.parametrize("kind", [Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K], ids=lambda kind: kind.name)
def test_other_blocks_are_carried_byte_for_byte(tmp_path: Path, kind: Type) -> None:
    data = random_blocks(kind, 3, 256)
    found = written(tmp_path / "x.gguf", kind, data)
    assert isinstance(found, BlockTensor)
    assert (found.format, found.shape) == (kind.name.lower(), (3, 256))
    np.testing.assert_array_equal(found.raw.numpy(), data)


@pytest.mark.parametrize("kind", [Type.Q4_1, Type.Q6_K], ids=lambda kind: kind.name)
def test_rows_are_taken_before_they_are_dequantized(tmp_path: Path, kind: Type) -> None:
    found = written(tmp_path / "x.gguf", kind, random_blocks(kind, 4, 256))
    assert isinstance(found, QuantizedTensor | BlockTensor)
    order = torch.tensor([2, 0, 3])
    assert torch.equal(found.rows(order).dequantize(), found.dequantize()[order])


def test_the_file_itself_never_changes(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    found = written(path, Type.F32, np.ones((2, 2), np.float32))
    before = path.read_bytes()
    dense(found).zero_()
    assert path.read_bytes() == before


def test_metadata_of_every_type_comes_back(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    values: dict[str, tuple[str, Any]] = {
        "uint8": ("add_uint8", 255),
        "int8": ("add_int8", -128),
        "uint16": ("add_uint16", 65535),
        "int16": ("add_int16", -32768),
        "uint32": ("add_uint32", 2**32 - 1),
        "int32": ("add_int32", -(2**31)),
        "uint64": ("add_uint64", 2**64 - 1),
        "int64": ("add_int64", -(2**63)),
        "float32": ("add_float32", 0.5),
        "float64": ("add_float64", math.pi),
        "bool": ("add_bool", True),
        "string": ("add_string", "文字 ✓"),
        "numbers": ("add_array", [1, 2, 3]),
        "texts": ("add_array", ["a", "", "é"]),
        "truths": ("add_array", [True, False]),
    }
    for key, (add, value) in values.items():
        getattr(writer, add)(f"t.{key}", value)
    found = read_gguf(finish(writer, tmp_path / "x.gguf")).metadata
    assert {key: found[f"t.{key}"] for key in values} == {key: value for key, (_, value) in values.items()}


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3_are_read(tmp_path: Path, version: int) -> None:
    (tmp_path / "x.gguf").write_bytes(file_bytes([], [tensor_info("t")], np.arange(4, dtype="<f4").tobytes(), version=version))
    file = read_gguf(tmp_path / "x.gguf")
    assert dense(weight(file, file.tensors["t"])).tolist() == [0, 1, 2, 3]


def test_a_small_alignment_is_honoured(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_custom_alignment(1)
    writer.add_tensor("bytes", np.array([1, 2, 3], np.float16))
    writer.add_tensor("x", np.array([1.5, -2.5], np.float32))
    file = read_gguf(finish(writer, tmp_path / "x.gguf"))
    assert dense(weight(file, file.tensors["x"])).tolist() == [1.5, -2.5]


# whole models


def toy(folder: Path, family: str, seed: int, **settings: Any) -> Any:
    """A model whose weights are exact in float16."""
    model = make_toy(folder, family, seed, **{**SMALL, **settings})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    return model


def opened(path: Path) -> ModelHandle:
    return open_model(str(path), Store(path.parent / "store"))


def assert_same_logits(path: Path, oracle: Any, tolerance: float = 1e-4) -> ModelHandle:
    handle = opened(path)
    with torch.inference_mode():
        wanted = oracle(torch.tensor([TOKENS])).logits[0].numpy()
    found = TorchSession(handle, context=32).feed(TOKENS, keep=0)
    assert np.abs(found - wanted).max() <= tolerance * np.ptp(wanted)
    return handle


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"head_dim": 10}),
        ("llama", {"attention_bias": True}),
        ("llama", {"mlp_bias": True}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 10}),
        ("qwen3", {"head_dim": 8, "attention_bias": True}),
    ],
    ids=str,
)
def test_a_model_computes_what_it_computes_in_transformers(
    tmp_path: Path, family: str, settings: dict[str, Any], tied: bool
) -> None:
    oracle = toy(tmp_path / "toy", family, 3, **settings, tie_word_embeddings=tied)
    handle = assert_same_logits(write_toy(tmp_path / "toy.gguf", oracle, family), oracle)
    assert handle.config.tied == tied
    assert handle.parameters == oracle.num_parameters()
    assert {ref.stored for ref in handle.weights.values()} == {"f16", "f32"}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "scaling",
    [{"rope_type": "linear", "factor": 4.0}, YARN, {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}],
    ids=["linear", "yarn", "betas"],
)
def test_rope_scaling_comes_from_its_keys(tmp_path: Path, family: str, scaling: dict[str, Any]) -> None:
    rope = {"rope_theta": 50000.0, **scaling}
    oracle = toy(tmp_path / "toy", family, 4, rope_parameters=rope)
    assert_same_logits(write_toy(tmp_path / "toy.gguf", oracle, family), oracle)


def test_rope_frequencies_come_from_their_tensor(tmp_path: Path) -> None:
    rope = {"rope_theta": 10000.0, **LLAMA3}
    oracle = toy(tmp_path / "toy", "llama", 5, rope_parameters=rope)
    plain = 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    factors = plain / oracle.model.rotary_emb.inv_freq
    assert factors.max() > 1
    handle = assert_same_logits(write_toy(tmp_path / "toy.gguf", oracle, "llama", factors=factors), oracle)
    assert "rope_freqs.weight" not in handle.tensors


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_0, Type.Q5_1], ids=lambda kind: kind.name)
def test_rotated_rows_are_restored_in_quantized_weights_too(tmp_path: Path, kind: Type) -> None:
    oracle = toy(tmp_path / "toy", "llama", 6, hidden_size=96, intermediate_size=64, head_dim=16)
    path = write_toy(tmp_path / "toy.gguf", oracle, "llama", matrices=kind)
    with torch.no_grad():  # rounding is by row, so it comes to the same in either order of the rows
        for parameter in oracle.parameters():
            if parameter.dim() == 2:
                data = gguf.quants.quantize(parameter.numpy(), kind)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(data, kind)))
    assert_same_logits(path, oracle)


def test_partial_rotary_embeddings_are_refused_rather_than_computed_wrongly(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for add, value in [("context_length", 64), ("embedding_length", 32), ("block_count", 1), ("feed_forward_length", 32)]:
        getattr(writer, f"add_{add}")(value)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)  # of 16
    writer.add_tensor("token_embd.weight", np.zeros((64, 32), np.float32))
    with pytest.raises(ModelUnsupported, match="partial rotary"):
        opened(finish(writer, tmp_path / "x.gguf"))


def test_another_architecture_is_unsupported_and_the_known_ones_are_listed(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "mamba")
    with pytest.raises(ModelUnsupported, match=r"x\.gguf: the architecture mamba .* llama, qwen2, qwen3"):
        opened(finish(writer, tmp_path / "x.gguf"))
