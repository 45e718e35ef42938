"""Every block format decodes to the very bits that ggml's own Python package gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from deepseek_cli import blocks

SHAPE = (37, 768)


def random_rows(format: str) -> np.ndarray:
    """Random bytes in every field but the float16 ones, which stay finite; uint8 [out, bytes per row]."""
    block = blocks.BLOCKS[format]
    draw = np.random.default_rng(len(format) * block.bytes)
    raw = draw.integers(0, 256, (SHAPE[0] * SHAPE[1] // block.values, block.bytes), dtype=np.uint8)
    fields = {"q6_k": [208]}.get(format, [0] if format in ("q4_0", "q5_0", "q8_0") else [0, 2])
    for at in fields:
        raw[:, at : at + 2] = draw.normal(0, 0.1, (len(raw), 1)).astype("<f2").view(np.uint8)
    return raw.reshape(SHAPE[0], -1)


@pytest.mark.parametrize("format", blocks.BLOCKS)
def test_a_format_decodes_as_ggml_does(format: str) -> None:
    raw = random_rows(format)
    expected = dequantize(raw, GGMLQuantizationType[format.upper()])
    decoded = blocks.decode(format, torch.from_numpy(raw), SHAPE)
    assert decoded.dtype == torch.float32
    assert np.array_equal(decoded.numpy().view(np.uint32), expected.reshape(SHAPE).view(np.uint32))


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = torch.from_numpy(random_rows("q5_k"))
    whole = blocks.decode("q5_k", raw, SHAPE)
    monkeypatch.setattr(blocks, "CHUNK_VALUES", 5 * SHAPE[1])
    assert torch.equal(blocks.decode("q5_k", raw, SHAPE), whole)


def test_rows_may_be_a_strided_view() -> None:
    raw = torch.from_numpy(random_rows("q4_k"))
    assert torch.equal(blocks.decode("q4_k", raw[::2], (19, SHAPE[1])), blocks.decode("q4_k", raw, SHAPE)[::2])
