"""What a GGUF file may say that its architecture would not compute is refused by name; what it may leave out has its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType as Kind

from deepseek_cli.errors import ModelCorrupt, ModelUnsupported
from deepseek_cli.formats.gguf import read_gguf
from deepseek_cli.formats.gguf_model import open_gguf
from tests.gguf_toys import entry, file_bytes, finish


def written(path: Path, family: str = "llama", tensors: tuple[str, ...] = (), **keys: Any) -> Path:
    writer = gguf.GGUFWriter(path, family)
    for add, value in [
        ("context_length", 64),
        ("embedding_length", 32),
        ("block_count", 2),
        ("feed_forward_length", 32),
        ("head_count", 2),
    ]:
        getattr(writer, f"add_{add}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in keys.items():
        name = key.replace("__", ".") if key.startswith(("tokenizer", "split")) else f"{family}.{key.replace('__', '.')}"
        writer.add_key_value(name, value, Kind.UINT32 if isinstance(value, int) else Kind.get_type(value))
    for name in ("token_embd.weight", *tensors):
        writer.add_tensor(name, np.zeros((32, 32), np.float32) if name.endswith("weight") else np.zeros(32, np.float32))
    return finish(writer, path)


@pytest.mark.parametrize(
    ("family", "tensor"),
    [
        ("llama", "blk.0.attn_qkv.weight"),
        ("llama", "blk.0.attn_q_norm.weight"),
        ("qwen2", "blk.1.attn_k_norm.weight"),
        ("llama", "blk.0.ffn_gate_exps.weight"),
        ("llama", "blk.2.attn_q.weight"),  # behind the last layer
        ("llama", "blk.01.attn_q.weight"),
        ("qwen3", "rope_factors_long.weight"),
        ("llama", "mystery.weight"),
    ],
)
def test_a_tensor_that_would_be_left_out_is_refused(tmp_path: Path, family: str, tensor: str) -> None:
    with pytest.raises(ModelUnsupported, match=rf"x\.gguf: tensor {tensor} has no place in the architecture {family}"):
        open_gguf(written(tmp_path / "x.gguf", family, (tensor,)))


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("llama", ["attn_q", "attn_k", "attn_v"]),  # without attn_output
        ("qwen2", ["attn_q", "attn_k", "attn_v", "attn_output"]),
        ("qwen2", ["ffn_up"]),
        ("llama", ["ffn_up", "ffn_gate"]),
        ("qwen3", ["attn_norm"]),
    ],
)
def test_biases_that_do_not_fit_are_refused(tmp_path: Path, family: str, parts: list[str]) -> None:
    with pytest.raises(ModelUnsupported, match=f"biases on .* do not fit the architecture {family}"):
        open_gguf(written(tmp_path / "x.gguf", family, tuple(f"blk.0.{part}.bias" for part in parts)))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"split__count": 3}, "is one part of a split model.*merge"),
        ({"expert_count": 8}, "a mixture of experts in the architecture llama"),
        ({"attention__key_length": 16, "attention__value_length": 8}, "keys and values of different lengths"),
    ],
    ids=["split", "experts", "lengths"],
)
def test_a_variant_is_refused(tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelUnsupported, match=says):
        open_gguf(written(tmp_path / "x.gguf", **keys))


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({}, None),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, None),
        ({"rope__scaling__factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope__scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope__scaling__type": "linear"}, None),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__attn_factor": 1.0},
            {"rope_type": "yarn", "factor": 4.0},
        ),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__attn_factor": 0.5},
            {"rope_type": "yarn", "factor": 4.0, "attention_factor": pytest.approx(0.5693147)},  # 0.5 * (1 + 0.1 ln 4)
        ),
    ],
    ids=str,
)
def test_rope_scaling(tmp_path: Path, keys: dict[str, Any], scaling: dict[str, Any] | None) -> None:
    assert open_gguf(written(tmp_path / "x.gguf", **keys))[0].get("rope_scaling") == scaling


@pytest.mark.parametrize(
    ("ids", "eos"), [({}, None), ({"eos": 2}, 2), ({"eos": 2, "eot": 2}, 2), ({"eos": 2, "eot": 5, "eom": 7}, [2, 5, 7])], ids=str
)
def test_every_end_is_an_end(tmp_path: Path, ids: dict[str, int], eos: Any) -> None:
    keys = {f"tokenizer__ggml__{name}_token_id": value for name, value in ids.items()}
    assert open_gguf(written(tmp_path / "x.gguf", **keys))[0].get("eos_token_id") == eos


def test_a_key_that_appears_twice_is_corrupt(tmp_path: Path) -> None:
    value = (1).to_bytes(4, "little")
    (tmp_path / "x.gguf").write_bytes(file_bytes([entry("a", 4, value), entry("b", 4, value), entry("a", 4, value)]))
    with pytest.raises(ModelCorrupt, match=r"x\.gguf has two values for a"):
        read_gguf(tmp_path / "x.gguf")
