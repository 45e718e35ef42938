"""Toy GGUF files, written by ggml's own Python package, which is the oracle of their layout and of their names."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import Keys
from tokenizers import pre_tokenizers

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
MERGES = ["Ġ a", "Ġ b", "a b", "Ġa b"]


def write_toy(path: Path, model: Any, family: str, *, matrices: Type = Type.F16, factors: torch.Tensor | None = None) -> Path:
    """A transformers model as llama.cpp's converter lays it out: q and k of llama permuted, vectors in float32."""
    config = model.config
    writer = gguf.GGUFWriter(path, family)
    write_config(writer, config)
    write_tokenizer(writer)
    names = gguf.get_tensor_name_map(ARCHITECTURES[family], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if family == "llama" and name.split(".")[-2] in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        kind = matrices if tensor.dim() == 2 else Type.F32
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert written
        writer.add_tensor(written, gguf.quants.quantize(tensor.float().contiguous().numpy(), kind), raw_dtype=kind)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors.float().numpy())
    return finish(writer, path)


def write_config(writer: gguf.GGUFWriter, config: Any) -> None:
    rope: Mapping[str, Any] = config.rope_parameters
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if rope["rope_type"] not in ("linear", "yarn"):  # a llama3 scaling lies in rope_freqs.weight
        return
    writer.add_string(Keys.Rope.SCALING_TYPE.format(arch=writer.arch), rope["rope_type"])
    writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "beta_fast" in rope:
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])


def write_tokenizer(writer: gguf.GGUFWriter, **changes: Any) -> None:
    """Bytes, some merges, an end token and a chat template; `changes` replace single entries, and None leaves one out."""
    pieces = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "Ġb", "ab", "Ġab", "<turn>", "<extra>"]
    types = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * 260 + [gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED]
    values: dict[str, Any] = {
        Keys.Tokenizer.MODEL: "gpt2",
        Keys.Tokenizer.PRE: "gpt-2",
        Keys.Tokenizer.LIST: pieces,
        Keys.Tokenizer.TOKEN_TYPE: [int(kind) for kind in types],
        Keys.Tokenizer.MERGES: MERGES,
        Keys.Tokenizer.BOS_ID: 1,
        Keys.Tokenizer.EOS_ID: 2,
        Keys.Tokenizer.EOT_ID: 263,
        Keys.Tokenizer.CHAT_TEMPLATE: "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}{{ eos_token }}",
        **{f"tokenizer.{name}": value for name, value in changes.items()},
    }
    for key, value in values.items():
        if value is not None:
            writer.add_key_value(key, value, kind_of(value))


def kind_of(value: Any) -> gguf.GGUFValueType:
    return gguf.GGUFValueType.UINT32 if isinstance(value, int) else gguf.GGUFValueType.get_type(value)


def tokenizer_file(path: Path, **changes: Any) -> Path:
    """A file that holds nothing but a tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    write_tokenizer(writer, **changes)
    return finish(writer, path)


def finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(kind: Type, rows: int, inputs: int, seed: int = 0) -> np.ndarray:
    """Rows of a block format with every bit at random, and scales that are ordinary numbers."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 256, (rows * inputs // values, size), dtype=np.uint8)
    for start in HALVES[kind]:
        blocks[:, start : start + 2] = draw.uniform(-2, 2, (len(blocks), 1)).astype("<f2").view(np.uint8)
    return blocks.reshape(rows, -1)


HALVES = {  # where a block holds float16
    Type.Q4_0: (0,),
    Type.Q4_1: (0, 2),
    Type.Q5_0: (0,),
    Type.Q5_1: (0, 2),
    Type.Q8_0: (0,),
    Type.Q4_K: (0, 2),
    Type.Q5_K: (0, 2),
    Type.Q6_K: (208,),
}

# bytes by hand, for files that no writer would write


def string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(
    name: str | bytes, shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0, dimensions: int | None = None
) -> bytes:
    """`shape` in the file's own order, the fastest dimension first."""
    count = len(shape) if dimensions is None else dimensions
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, offset)


def file_bytes(
    entries: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    entries, tensors = entries or [], tensors or []
    tensor_count, entry_count = counts or (len(tensors), len(entries))
    head = magic + struct.pack("<IQQ", version, tensor_count, entry_count) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data
