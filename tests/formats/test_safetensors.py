from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.formats.headers import INDEX, read_file, read_folder
from deepseek_cli.formats.safetensors import Planned, Writer


def test_reads_what_the_reference_library_writes(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(4).bfloat16(),
        "c": torch.arange(6).view(2, 3),
        "empty": torch.zeros(0, 2),
    }
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    found = read_file(tmp_path / "x.safetensors")
    assert {n: r.stored for n, r in found.items()} == {"a": "f32", "b": "bf16", "c": "i64", "empty": "f32"}
    for name, tensor in tensors.items():
        assert torch.equal(found[name].read(), tensor)


def test_released_pages_come_back_when_they_are_read_again(tmp_path: Path) -> None:
    tensor = torch.randn(512, 512)
    safetensors.torch.save_file({"a": tensor}, tmp_path / "x.safetensors")
    ref = read_file(tmp_path / "x.safetensors")["a"]
    ref.read()
    ref.release()
    assert torch.equal(ref.read(), tensor)


def test_the_writer_writes_what_the_reference_library_reads(tmp_path: Path) -> None:
    tensors = {
        "w": torch.randn(4, 6).bfloat16(),
        "packed": torch.randint(0, 1 << 30, (2, 3), dtype=torch.int32),
        "n": torch.tensor([1, 2]),
    }
    with Writer(tmp_path, [Planned(n, t.dtype, tuple(t.shape)) for n, t in tensors.items()]) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    found = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[n], t) for n, t in tensors.items())


def test_shards_have_an_index_that_reads_back(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(5)}
    with Writer(tmp_path, [Planned(n, t.dtype, tuple(t.shape)) for n, t in tensors.items()], shard_bytes=90) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    assert sorted(f.name for f in tmp_path.glob("*.safetensors")) == [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    assert json.loads((tmp_path / INDEX).read_text())["metadata"]["total_size"] == 200
    assert all(torch.equal(read_folder(tmp_path)[n].read(), t) for n, t in tensors.items())


def test_the_writer_refuses_what_was_not_planned(tmp_path: Path) -> None:
    planned = [Planned("a", torch.float32, (2,)), Planned("b", torch.float32, (2,))]
    with pytest.raises(ValueError, match="planned"), Writer(tmp_path, planned) as writer:
        writer.write("a", torch.zeros(3))
    with pytest.raises(ValueError, match="b was planned"), Writer(tmp_path, planned) as writer:
        writer.write("a", torch.zeros(2))


def test_golden_bytes(tmp_path: Path) -> None:
    with Writer(tmp_path, [Planned("a", torch.uint8, (2,))]) as writer:
        writer.write("a", torch.tensor([7, 9], dtype=torch.uint8))
    header = b'{"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}    '
    assert (tmp_path / "model.safetensors").read_bytes() == len(header).to_bytes(8, "little") + header + b"\x07\x09"


def test_an_index_entry_must_be_in_the_file_it_names(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "model-1.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}))
    with pytest.raises(ModelCorrupt, match=r"tensor b is not in model-1\.safetensors"):
        read_folder(tmp_path)
