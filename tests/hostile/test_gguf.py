"""Damaged and malicious GGUF files: each is refused with a sentence that names the file, never with anything else."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from deepseek_cli.errors import ModelCorrupt, ModelError, ModelUnsupported
from deepseek_cli.formats.gguf import read_gguf
from deepseek_cli.handle import open_model
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store
from tests.gguf_toys import entry, file_bytes, finish, string, tensor, tokenizer_file, write_toy
from tests.toys import make_toy

U32, F32, STRING, ARRAY = 4, 6, 8, 9
TINY: dict[str, Any] = {
    "vocab_size": 32,
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("tiny")
    return write_toy(folder / "toy.gguf", make_toy(folder / "toy", tokenizer=False, **TINY), "llama").read_bytes()


def use(path: Path) -> None:
    """Everything that reads a file: its model, every weight, its tokenizer."""
    for ref in open_model(str(path), Store(path.parent / "store")).tensors.values():
        ref.read()
    open_tokenizer(path)


def refused(path: Path, says: str, kind: type[ModelError] = ModelCorrupt) -> None:
    with pytest.raises(kind, match=says) as caught:
        use(path)
    assert str(path) in str(caught.value)


def text(key: str, value: str | bytes) -> bytes:
    return entry(key, STRING, string(value))


# whatever is cut off or overwritten


def test_a_truncated_file_is_a_model_error_wherever_it_ends(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny)
    use(path)
    end = max(t.offset + t.size for t in read_gguf(path).tensors.values())
    for length in (*range(0, end, 7), end - 1):
        path.write_bytes(tiny[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf"):
            use(path)


@pytest.mark.parametrize("value", [0x00, 0x7F, 0xFF], ids=hex)
def test_an_overwritten_byte_is_a_model_error_or_harmless(tmp_path: Path, tiny: bytes, value: int) -> None:
    path = tmp_path / "changed.gguf"
    path.write_bytes(tiny)
    header = min(t.offset for t in read_gguf(path).tensors.values())
    for position in range(value % 7, header, 7):
        path.write_bytes(tiny[:position] + bytes([value]) + tiny[position + 1 :])
        try:
            use(path)
        except ModelError as error:
            assert str(path) in str(error)


# the header


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "too short"),
        (b"GGUF\3\0\0\0", "too short"),
        (file_bytes(magic=b"GGML"), "not a GGUF file"),
        (file_bytes(magic=b"PK\3\4"), "not a GGUF file"),
        (file_bytes(counts=(2**63, 0)), f"claims {2**63} tensors"),
        (file_bytes(counts=(2**64 - 1, 0)), "tensors, more than fit"),
        (file_bytes(counts=(0, 2**40)), "metadata entries, more than fit"),
        (file_bytes(counts=(1, 0)), "claims 1 tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_headers(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    refused(path, says)


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24], ids=["0", "1", "4", "big-endian"])
def test_versions_that_are_not_read(tmp_path: Path, version: int) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(file_bytes(version=version))
    refused(path, f"GGUF version {version}", ModelUnsupported)


# metadata


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([struct.pack("<Q", 2**60) + b"k" * 20], "bytes of a string, more than fit"),
        ([entry("k", STRING, struct.pack("<Q", 2**64 - 1))], "bytes of a string, more than fit"),
        ([entry(b"\xff\xfe", U32, bytes(4))], "not UTF-8"),
        ([text("general.architecture", b"\xc3\x28")], "not UTF-8"),
        ([entry("k", 13, bytes(8))], "unknown type 13"),
        ([entry("k", 2**32 - 1, bytes(8))], "unknown type 4294967295"),
        ([entry("k", ARRAY, struct.pack("<IQ", U32, 2**61) + bytes(64))], "array items, more than fit"),
        ([entry("k", ARRAY, struct.pack("<IQ", STRING, 9) + bytes(64))], "array items, more than fit"),
        ([entry("k", ARRAY, struct.pack("<IQ", 99, 1) + bytes(64))], "unknown type 99"),
        ([entry("k", ARRAY, struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ", U32, 1) + bytes(4))], "unknown type 9"),
        (
            [entry("k", ARRAY, struct.pack("<IQ", STRING, 2) + string("a") + struct.pack("<Q", 50) + bytes(8))],
            "string, more than fit",
        ),
        ([entry("k", 10, b"\0\0\0\0")], "ends inside its header"),
    ],
)
def test_damaged_metadata(tmp_path: Path, entries: list[bytes], says: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(file_bytes(entries, alignment=1))
    refused(path, says)


def test_arrays_in_arrays_do_not_recurse(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(file_bytes([entry("k", ARRAY, struct.pack("<IQ", ARRAY, 1) * 100_000)]))
    refused(path, "unknown type 9")


@pytest.mark.parametrize(
    "alignment",
    [entry("general.alignment", U32, struct.pack("<I", n)) for n in (0, 3, 48, 1 << 21, 1 << 31)]
    + [text("general.alignment", "32"), entry("general.alignment", F32, struct.pack("<f", 32.0))],
    ids=["0", "3", "48", "2M", "2G", "text", "float"],
)
def test_alignments_that_are_no_power_of_two_or_absurd(tmp_path: Path, alignment: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(file_bytes([alignment], [tensor("t")], bytes(16)))
    refused(path, r"general\.alignment is")


# tensors


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([tensor("a"), tensor("a", offset=32)], "two tensors named a"),
        ([tensor("a"), tensor("b")], "tensor b overlaps"),
        ([tensor("a", (32,)), tensor("b", offset=96)], "tensor b overlaps"),
        ([tensor("a", offset=4)], "tensor a overlaps its neighbour or is misplaced"),
        ([tensor("a", offset=256)], "tensor a ends at byte"),
        ([tensor("a", (1000,))], "tensor a ends at byte"),
        ([tensor("a", offset=2**63)], "tensor a ends at byte"),
        ([tensor("a", (2**63, 2**63, 2**63, 2**63))], "tensor a ends at byte"),
        ([tensor("a", (2**32, 2**32))], "tensor a ends at byte"),  # 2 ** 64 values: an overflow elsewhere
        ([tensor("a", ())], "tensor a has 0 dimensions"),
        ([tensor("a", (1,) * 5)], "tensor a has 5 dimensions"),
        ([tensor("a", (1,), dimensions=2**32 - 1)], "tensor a has 4294967295 dimensions"),
        ([tensor(b"\x80", (1,))], "not UTF-8"),
        ([tensor("a", (33, 2), kind=2)], r"tensor a of shape \[2, 33\] cannot be q4_0"),
        ([tensor("a", (128, 2), kind=12)], r"tensor a of shape \[2, 128\] cannot be q4_k"),
        ([tensor("a", (32,), kind=8)], r"tensor a of shape \[32\] cannot be q8_0"),
        ([tensor("a", (32, 2, 2, 2), kind=8)], r"tensor a of shape \[2, 2, 2, 32\] cannot be q8_0"),
    ],
)
def test_damaged_tensors(tmp_path: Path, tensors: list[bytes], says: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(file_bytes([text("general.architecture", "llama")], tensors, bytes(256)))
    refused(path, says)


@pytest.mark.parametrize("kind", [4, 5, 9, 10, 11, 15, 16, 24, 27, 28, 34, 39, 1000, 2**32 - 1])
def test_types_that_are_not_read_name_the_tensor(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(file_bytes([], [tensor("odd", (256,), kind)], bytes(2048)))
    refused(path, f"tensor odd has ggml type {kind}", ModelUnsupported)


@pytest.mark.parametrize("shape", [(0,), (0, 32), (32, 0), (2**63, 0)], ids=str)
@pytest.mark.parametrize("kind", [0, 8, 12])
@pytest.mark.parametrize("name", ["rope_freqs.weight", "token_embd.weight"])
def test_tensors_without_values(tmp_path: Path, name: str, kind: int, shape: tuple[int, ...]) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(file_bytes([text("general.architecture", "llama")], [tensor(name, shape, kind)], bytes(64)))
    refused(path, rf"tensor {name} of shape .* holds nothing")


# a file that is whole, and says nonsense


def model(path: Path, **changes: bytes | None) -> Path:
    """Keys of a llama, one of them changed or left out, around one embedding."""
    number = lambda n: (U32, struct.pack("<I", n))  # noqa: E731
    keys: dict[str, tuple[int, bytes]] = {
        "general.architecture": (STRING, string("llama")),
        "llama.context_length": number(64),
        "llama.embedding_length": number(8),
        "llama.block_count": number(1),
        "llama.feed_forward_length": number(8),
        "llama.attention.head_count": number(2),
        "llama.attention.head_count_kv": number(1),
        "llama.attention.layer_norm_rms_epsilon": (F32, struct.pack("<f", 1e-5)),
    }
    entries = [entry(key, *value) for key, value in keys.items() if key not in changes]
    entries += [changed for changed in changes.values() if changed is not None]
    tensors = [tensor("token_embd.weight", (8, 8)), tensor("blk.0.attn_q.weight", (8, 8), offset=256)]
    path.write_bytes(file_bytes(entries, tensors, bytes(512)))
    return path


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("llama.context_length", "max_position_embeddings"),
        ("llama.embedding_length", "hidden_size"),
        ("llama.block_count", "num_hidden_layers"),
        ("llama.feed_forward_length", "intermediate_size"),
        ("llama.attention.head_count", "num_attention_heads"),
        ("llama.attention.head_count_kv", "num_key_value_heads"),
        ("llama.attention.key_length", "head_dim"),
        ("llama.attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        ("llama.rope.freq_base", "rope_theta"),
        ("tokenizer.ggml.bos_token_id", "bos_token_id"),
        ("tokenizer.ggml.eos_token_id", "eos_token_id"),
    ],
)
@pytest.mark.parametrize(
    "value",
    [
        (STRING, string("8")),
        (ARRAY, struct.pack("<IQ", STRING, 1) + string("8")),
        (5, struct.pack("<i", -1)),
        (12, struct.pack("<d", float("inf"))),
    ],
    ids=["text", "array", "negative", "infinite"],
)
def test_a_config_of_wrong_types_names_the_field(tmp_path: Path, key: str, field: str, value: tuple[int, bytes]) -> None:
    keys = {key: entry(key, *value)}
    if field == "head_dim":  # as much of it as is rotated, so that this is not what is wrong
        keys["rotated"] = entry("llama.rope.dimension_count", *value)
    refused(model(tmp_path / "x.gguf", **keys), f"{field} must be")


@pytest.mark.parametrize(
    "key", ["llama.embedding_length", "llama.block_count", "llama.feed_forward_length", "llama.attention.head_count"]
)
def test_a_config_that_lacks_a_field(tmp_path: Path, key: str) -> None:
    refused(model(tmp_path / "x.gguf", **{key: None}), "lacks the field")


@pytest.mark.parametrize("heads", [0, 3, 4096, 2**31, 2**32 - 1])
def test_a_number_of_heads_that_does_not_divide(tmp_path: Path, heads: int) -> None:
    key = "llama.attention.head_count"
    refused(model(tmp_path / "x.gguf", **{key: entry(key, U32, struct.pack("<I", heads))}), r"heads")


@pytest.mark.parametrize(
    "value",
    [(U32, bytes(4)), (ARRAY, struct.pack("<IQ", STRING, 1) + string("llama")), (STRING, string("../llama"))],
    ids=["number", "array", "path"],
)
def test_an_architecture_that_is_none(tmp_path: Path, value: tuple[int, bytes]) -> None:
    key = "general.architecture"
    refused(model(tmp_path / "x.gguf", **{key: entry(key, *value)}), "is not supported", ModelUnsupported)


def test_a_file_without_the_tensors_it_needs(tmp_path: Path) -> None:
    refused(model(tmp_path / "x.gguf"), r"tensor model\.layers\.0\.input_layernorm\.weight is missing")


@pytest.mark.parametrize(
    "factors", [[1.0], [1.0, 1.0, 1.0], [0.0, 1.0], [-1.0, 1.0], [float("nan"), 1.0], [float("inf"), 1.0]], ids=str
)
def test_rope_factors_that_are_no_divisors(tmp_path: Path, factors: list[float]) -> None:
    oracle = make_toy(tmp_path / "toy", tokenizer=False, **TINY)
    refused(write_toy(tmp_path / "x.gguf", oracle, "llama", factors=torch.tensor(factors)), "factors must be a list of")


@pytest.mark.parametrize("kind", ["longrope", "ntk", "", "yarn\0"])
def test_an_unknown_rope_scaling(tmp_path: Path, kind: str) -> None:
    refused(
        model(tmp_path / "x.gguf", scaling=text("llama.rope.scaling.type", kind)),
        "rope_type .* is not supported",
        ModelUnsupported,
    )


# the tokenizer inside


def refused_tokenizer(path: Path, says: str, kind: type[ModelError] = ModelCorrupt) -> None:
    with pytest.raises(kind, match=says) as caught:
        open_tokenizer(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ggml.tokens": None}, r"tokenizer\.ggml\.tokens is not a list of strings"),
        ({"ggml.tokens": [1, 2]}, "is not a list of strings"),
        ({"ggml.tokens": "text"}, "is not a list of strings"),
        ({"ggml.tokens": ["a", "a", "b", "Ġ"]}, "its tokens repeat"),
        ({"ggml.tokens": ["a", "b"]}, "is not a tokenizer"),  # merges of tokens that are not there
        ({"ggml.merges": None}, r"tokenizer\.ggml\.merges is not a list of strings"),
        ({"ggml.merges": ["ab"]}, "a merge is not a pair"),
        ({"ggml.merges": ["a zz"]}, "is not a tokenizer"),
    ],
    ids=str,
)
def test_a_damaged_tokenizer(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    refused_tokenizer(tokenizer_file(tmp_path / "x.gguf", **changes), says)


@pytest.mark.parametrize(
    "changes",
    [
        {"ggml.model": None},
        {"ggml.model": "llama"},  # SentencePiece
        {"ggml.model": "bert"},
        {"ggml.model": ["gpt2"]},
        {"ggml.pre": "chameleon"},
        {"ggml.pre": ["gpt-2"]},
        {"ggml.pre": 7},
    ],
    ids=str,
)
def test_a_kind_of_tokenizer_that_is_not_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    refused_tokenizer(tokenizer_file(tmp_path / "x.gguf", **changes), "has a tokenizer of kind", ModelUnsupported)


@pytest.mark.parametrize(
    "changes",
    [
        {"ggml.token_type": None},
        {"ggml.token_type": "types"},
        {"ggml.token_type": 5},
        {"ggml.token_type": [3]},
        {"ggml.eos_token_id": "two"},
        {"ggml.eos_token_id": [2, 3]},
        {"ggml.bos_token_id": 2**31},
        {"chat_template": 5},
        {"chat_template": ["a", "b"]},
    ],
    ids=str,
)
def test_odd_extras_of_a_tokenizer_are_left_out_or_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tokenizer_file(tmp_path / "x.gguf", **changes)
    try:
        found = open_tokenizer(path)
    except ModelError as error:
        assert str(path) in str(error)
    else:
        assert found.decode(found.encode("a b")) == "a b"


def test_a_file_without_a_tokenizer_is_unsupported(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("t", np.zeros(4, np.float32))
    refused_tokenizer(finish(writer, tmp_path / "x.gguf"), "kind None", ModelUnsupported)
