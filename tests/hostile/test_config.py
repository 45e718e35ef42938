"""Hostile and damaged config.json files: refused with file and field, exit code 3."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.errors import ModelCorrupt, ModelError, ModelUnsupported
from deepseek_cli.handle import open_model
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_toy(tmp_path, tokenizer=False, **DEPLOYABLE)
    return tmp_path


def change(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "REMOVE"}))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hidden_size": "64"}, "hidden_size must be an integer"),
        ({"hidden_size": True}, "hidden_size must be an integer"),
        ({"hidden_size": -1}, "hidden_size must be an integer"),
        ({"hidden_size": 10**30}, "hidden_size must be an integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be"),
        ({"num_attention_heads": "REMOVE"}, "lacks the field num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must be a divisor"),
        ({"head_dim": 17}, "head_dim must be even"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({"eos_token_id": [1, "x"]}, "eos_token_id must be a token id"),
        ({"rope_parameters": [1]}, "rope_parameters must be an object"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor must be a number"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": -5}}, "rope_theta must be a number"),
        ({"model_type": 5}, "model_type must be a string"),
        ({"num_hidden_layers": 5}, r"model\.layers\.2\..* is missing"),
        ({"intermediate_size": 97}, r"gate_proj\.weight has shape"),
        ({"vocab_size": 10**6}, r"embed_tokens\.weight has shape"),
    ],
)
def test_wrong_fields(folder: Path, fields: dict[str, Any], says: str) -> None:
    change(folder, **fields)
    with pytest.raises(ModelCorrupt, match=says) as caught:
        open_model(str(folder), Store(folder))
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model_type": "mamba"}, "mamba is not supported"),
        ({"model_type": "../../etc"}, "is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
        ({"quantization_config": {"quant_method": "hqq"}}, "hqq"),
    ],
)
def test_variants_that_are_not_computed(folder: Path, fields: dict[str, Any], says: str) -> None:
    change(folder, **fields)
    with pytest.raises(ModelUnsupported, match=says):
        open_model(str(folder), Store(folder))


@pytest.mark.parametrize("text", ["", "[]", "{", "nul\0l", "[" * 100_000, '{"a": 1e999}'])
def test_files_that_are_no_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        open_model(str(folder), Store(folder))


def test_a_missing_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelCorrupt, match=r"config\.json is missing"):
        open_model(str(folder), Store(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickles_are_refused_unopened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(ModelUnsupported, match="pickle"):
        open_model(str(folder), Store(folder))
    with pytest.raises(ModelUnsupported, match="pickle"):
        open_model(str(folder / name), Store(folder))


def test_config_that_names_code_is_read_without_it(folder: Path) -> None:
    change(folder, auto_map={"AutoModel": "evil.Model"}, _attn_implementation_internal="evil/kernel")
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    handle = open_model(str(folder), Store(folder))
    assert not hasattr(handle.config, "auto_map")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(ModelUnsupported, match="neither a model folder nor a GGUF"):
        open_model(str(tmp_path / "x.txt"), Store(tmp_path))


def test_a_gguf_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(struct.pack("<IIQQ", 0x12345678, 3, 0, 0))
    with pytest.raises(ModelCorrupt, match=r"x\.gguf"):
        open_model(str(tmp_path / "x.gguf"), Store(tmp_path))
