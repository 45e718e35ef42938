"""AWQ against what AutoAWQ's layer packed and computes with (golden/make.py), and what hostile folders hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.errors import ModelCorrupt, ModelError
from deepseek_cli.tensors import QuantizedTensor, dense
from tests.formats.imported import golden, linear, opened

GOLDEN = golden("awq")
STORED = {"asym": "int4-g32-asym awq", "asym-g128": "int4-g128-asym awq", "sym": "int4-g64 awq"}
PARTS, CONFIG = GOLDEN["asym"]


@pytest.mark.parametrize("case", GOLDEN)
def test_values_are_those_of_autoawq(tmp_path: Path, case: str) -> None:
    parts, config = GOLDEN[case]
    ref = opened(tmp_path, linear(parts), {"quantization_config": config})["m.weight"]
    weight = ref.read()
    assert isinstance(weight, QuantizedTensor)
    assert (ref.stored, ref.shape) == (STORED[case], (16, 128))
    assert torch.equal(weight.dequantize().half(), parts["values"])
    assert (weight.zero is None) == (case == "sym")


def test_what_is_not_converted_and_biases_are_kept(tmp_path: Path) -> None:
    tensors = {**linear(PARTS), "m.bias": torch.arange(16.0), "lm_head.weight": torch.ones(3, 4)}
    found = opened(tmp_path, tensors, {"quantization_config": CONFIG})
    assert found.keys() == {"m.weight", "m.bias", "lm_head.weight"}


def test_auto_round_names_the_layout_it_packs(tmp_path: Path) -> None:
    config = {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4, "group_size": 32, "sym": False}
    found = opened(tmp_path, linear(PARTS), {"quantization_config": config})
    assert torch.equal(dense(found["m.weight"].read()).half(), PARTS["values"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": "gemv"}, "quantization_config.version gemv is not supported. Supported are gemm"),
        ({"version": "gemv_fast"}, "quantization_config.version gemv_fast is not supported"),
        ({"bits": 8}, "quantization_config.bits 8 is not supported"),
        ({"group_size": 64}, "parts of tensor m.weight do not fit"),
        ({"group_size": [32]}, "quantization_config.group_size must be a positive integer"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        opened(tmp_path, linear(PARTS), {"quantization_config": CONFIG | change})
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"qzeros": None}, "m.qweight lacks its other parts"),
        ({"scales": None}, "m.qweight lacks its other parts"),
        ({"scales": PARTS["scales"][:1]}, "parts of tensor m.weight do not fit"),
        ({"scales": PARTS["scales"].long()}, "m.scales of dtype i64"),
        ({"qzeros": PARTS["qzeros"].T}, "parts of tensor m.weight do not fit"),
        ({"qweight": PARTS["qweight"][:127]}, "parts of tensor m.weight do not fit"),
        ({"qweight": PARTS["qweight"].flatten()}, "parts of tensor m.weight do not fit"),
        ({"qweight": PARTS["qweight"][:, :0]}, "m.qweight of dtype i32 and shape"),
        ({"qweight": PARTS["qweight"][0, 0]}, r"m.qweight of dtype i32 and shape \[\]"),
        ({"qweight": PARTS["qweight"].to(torch.int16)}, "m.qweight of dtype i16"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelCorrupt, match=says) as caught:
        opened(tmp_path, linear(PARTS, **change), {"quantization_config": CONFIG})
    assert str(tmp_path / "config.json") in str(caught.value)
