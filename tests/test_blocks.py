from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from deepseek_cli.blocks import BLOCKS, decode


@pytest.mark.parametrize("format", BLOCKS)
def test_every_format_decodes_as_the_reference_does(format: str) -> None:
    block, rows = BLOCKS[format], 6
    raw = np.random.default_rng(0).integers(0, 256, (rows, 3 * block.bytes), dtype=np.uint8)
    wanted = quants.dequantize(raw, GGMLQuantizationType[format.upper()])
    found = decode(format, torch.from_numpy(raw), (rows, 3 * block.values)).numpy()
    finite = np.isfinite(wanted)  # random bytes make some scales infinite
    np.testing.assert_array_equal(found[finite], wanted[finite])
    assert finite.mean() > 0.5
