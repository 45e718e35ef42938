"""Damaged and malicious safetensors files: each is refused with a sentence that names file and tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.errors import ModelCorrupt, ModelError, ModelUnsupported
from deepseek_cli.formats.headers import INDEX, ITEM_BYTES, read_folder, read_header
from deepseek_cli.formats.safetensors import DTYPES


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(begin: int, end: int, dtype: str = "U8", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        ({"a": entry(0, 8)}, b"1234", "tensor a ends at byte"),
        ({"a": entry(0, 4), "b": entry(2, 6)}, b"123456", "tensor b overlaps"),
        ({"a": entry(0, 2), "b": entry(3, 4)}, b"1234", "tensor b overlaps its neighbour or leaves a gap"),
        ({"a": entry(0, 2)}, b"1234", "2 bytes behind its last tensor"),
        ({"a": entry(0, 4, "F32", [2])}, b"1234", "tensor a has 4 bytes"),
        ({"a": entry(0, 4, shape=[-4])}, b"1234", "tensor a has a damaged"),
        ({"a": entry(0, 4, shape=[True, 4])}, b"1234", "tensor a has a damaged"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}, b"1", "tensor a has a damaged"),
        ({"a": {"shape": [1]}}, b"1", "tensor a has a damaged"),
        ({"a": 5}, b"", "tensor a has a damaged"),
        ([1, 2], b"", "not a JSON object"),
        (b"{nonsense", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        ({"a": entry(0, 4, "F32", [2**40, 2**40])}, b"1234", "tensor a has 4 bytes"),
    ],
)
def test_damaged_headers(tmp_path: Path, header: Any, data: bytes, says: str) -> None:
    path = write(tmp_path / "model.safetensors", header, data)
    with pytest.raises(ModelCorrupt, match=says) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 10**10, 2**63])
def test_absurd_header_lengths(tmp_path: Path, length: int) -> None:
    with pytest.raises(ModelCorrupt, match="header claims"):
        read_header(write(tmp_path / "model.safetensors", {"a": entry(0, 1)}, b"1", length))


def test_a_file_too_short_for_a_header(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"123")
    with pytest.raises(ModelCorrupt, match="header claims"):
        read_header(tmp_path / "x.safetensors")


def test_an_unknown_dtype_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="tensor a has dtype F4"):
        read_header(write(tmp_path / "x.safetensors", {"a": entry(0, 1, "F4")}, b"1"))


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "..\\x.safetensors", "sub/x.safetensors", "x.bin", "C:x.safetensors", ""]
)
def test_an_index_cannot_point_outside_the_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(ModelCorrupt, match="points outside the folder"):
        read_folder(tmp_path)


def test_an_index_that_names_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(ModelCorrupt, match=r"model-1\.safetensors is missing"):
        read_folder(tmp_path)


@pytest.mark.parametrize("index", [{"weight_map": 5}, {}, {"weight_map": {"a": 1}}])
def test_a_damaged_index(tmp_path: Path, index: Any) -> None:
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="weight_map"):
        read_folder(tmp_path)


def test_headers_are_judged_by_the_widths_that_tensors_have() -> None:
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == ITEM_BYTES


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match=r"no model\.safetensors"):
        read_folder(tmp_path)
