"""GPTQ against what GPTQModel packed and computes with (golden/make.py), and what hostile folders hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt, ModelError, ModelUnsupported
from deepseek_cli.tensors import QuantizedTensor, dense, take_rows
from tests.formats.imported import golden, linear, opened

GOLDEN = golden("gptq")
STORED = {
    "v1-sym": "int4-g32 gptq",
    "v1-asym": "int4-g32-asym gptq",
    "v2-asym": "int4-g64-asym gptq",
    "v1-int8": "int8-g32-asym gptq",
    "v2-int8-channel": "int8-channel gptq",
    "act-order": "act-order int4-g32-asym gptq",
    "act-order-int8": "act-order int8-g64 gptq",
}
PARTS, CONFIG = GOLDEN["v1-asym"]


@pytest.mark.parametrize("case", GOLDEN)
def test_values_are_those_of_gptqmodel(tmp_path: Path, case: str) -> None:
    parts, config = GOLDEN[case]
    ref = opened(tmp_path, linear(parts), {"quantization_config": config})["m.weight"]
    weight = ref.read()
    assert isinstance(weight, QuantizedTensor)
    assert (ref.stored, ref.shape, weight.shape) == (STORED[case], (16, 128), (16, 128))
    assert torch.equal(weight.dequantize().half(), parts["values"])
    assert (weight.zero is None) == config["sym"]
    assert (weight.permutation is not None) == config["desc_act"]
    order = torch.randperm(16)
    assert torch.equal(dense(take_rows(weight, order)), dense(weight)[order])
    assert ref.size_bytes == sum(t.nbytes for name, t in parts.items() if name != "values")


def test_zero_points_at_both_ends_are_in_the_golden_file(tmp_path: Path) -> None:
    """Stored less one, a zero point of 0 borrows from the next one of its word."""
    weight = opened(tmp_path, linear(PARTS), {"quantization_config": CONFIG})["m.weight"].read()
    assert isinstance(weight, QuantizedTensor) and weight.zero is not None
    assert set(weight.zero[0].tolist()) == {0} and set(weight.zero[1].tolist()) == {15}


def test_parts_in_bfloat16_and_without_g_idx(tmp_path: Path) -> None:
    parts = linear(PARTS, g_idx=None, scales=PARTS["scales"].bfloat16())
    found = opened(tmp_path, parts, {"quantization_config": CONFIG})["m.weight"].read()
    assert isinstance(found, QuantizedTensor)
    assert torch.equal(found.scale, PARTS["scales"].T.bfloat16().float())


def test_rules_for_single_modules(tmp_path: Path) -> None:
    """A module with other bits, one with other groups, one that is left dense, and a bias."""
    int8, _ = GOLDEN["v1-int8"]
    wide, _ = GOLDEN["v2-asym"]
    one = torch.tensor(0x11111111, dtype=torch.int32)
    tensors: dict[str, Tensor | None] = {
        **linear(PARTS),
        **{f"n.{part}": t for part, t in int8.items() if part != "values"},
        **{f"o.{part}": t for part, t in {**wide, "qzeros": wide["qzeros"] - one}.items() if part != "values"},
        "lm_head.weight": torch.ones(3, 4),
        "m.bias": torch.arange(16.0),
    }
    rules = {"+:^n$": {"bits": 8}, "o": {"group_size": 64}, "-:lm_head": {}}
    found = opened(tmp_path, tensors, {"quantization_config": CONFIG | {"dynamic": rules}})
    assert found.keys() == {"m.weight", "m.bias", "n.weight", "o.weight", "lm_head.weight"}
    assert [found[f"{name}.weight"].stored[:8] for name in "mno"] == ["int4-g32", "int8-g32", "int4-g64"]
    assert torch.equal(dense(found["n.weight"].read()).half(), int8["values"])
    assert torch.equal(dense(found["o.weight"].read()).half(), wide["values"])
    assert torch.equal(dense(found["m.bias"].read()), torch.arange(16.0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bits": 3}, "quantization_config.bits 3 is not supported. Supported are 4, 8"),
        ({"bits": "4"}, "quantization_config.bits must be a positive integer, not '4'"),
        ({"bits": None}, "quantization_config.bits 0 is not supported"),
        ({"bits": 8}, "the parts of tensor m.weight do not fit"),
        ({"group_size": 64}, "the parts of tensor m.weight do not fit"),
        ({"group_size": -7}, "quantization_config.group_size must be a positive integer, not -7"),
        ({"group_size": 1 << 40}, "quantization_config.group_size must be a positive integer"),
        ({"dynamic": {"x": {"bits": 2}}}, "quantization_config.bits 2 is not supported"),
        ({"dynamic": {"x": 3}}, "quantization_config.dynamic must be an object of objects"),
        ({"checkpoint_format": "marlin"}, "quantization_config.checkpoint_format marlin is not supported"),
        ({"checkpoint_format": ["gptq"]}, "quantization_config.checkpoint_format .* is not supported"),
        ({"pack_dtype": "int64"}, "quantization_config.pack_dtype int64 is not supported"),
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
        ({"scales": PARTS["scales"][:3]}, "parts of tensor m.weight do not fit"),
        ({"scales": PARTS["scales"].flatten()}, "parts of tensor m.weight do not fit"),
        ({"scales": PARTS["scales"].int()}, "m.scales of dtype i32"),
        ({"qzeros": PARTS["qzeros"][:, :1]}, "parts of tensor m.weight do not fit"),
        ({"qzeros": PARTS["qzeros"].float()}, "m.qzeros of dtype f32"),
        ({"qweight": PARTS["qweight"][:, :15]}, "parts of tensor m.weight do not fit"),
        ({"qweight": PARTS["qweight"].flatten()}, "parts of tensor m.weight do not fit"),
        ({"qweight": PARTS["qweight"][:0]}, r"m.qweight of dtype i32 and shape \[0, 16\]"),
        ({"qweight": PARTS["qweight"][0, 0]}, r"m.qweight of dtype i32 and shape \[\]"),
        ({"qweight": PARTS["qweight"].long()}, "m.qweight of dtype i64"),
        ({"g_idx": PARTS["g_idx"][:100]}, "parts of tensor m.weight do not fit"),
        ({"g_idx": PARTS["g_idx"].float()}, "m.g_idx of dtype f32"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelCorrupt, match=says) as caught:
        opened(tmp_path, linear(PARTS, **change), {"quantization_config": CONFIG})
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize("index", [torch.full((128,), 4), torch.arange(128) // 32 - 2, torch.arange(128) // 64, torch.zeros(128)])
@pytest.mark.parametrize("desc_act", [True, False])
def test_groups_out_of_range_or_of_unequal_size(tmp_path: Path, index: Tensor, desc_act: bool) -> None:
    with pytest.raises(ModelCorrupt, match=r"m\.g_idx does not put its inputs into groups of 32"):
        found = opened(tmp_path, linear(PARTS, g_idx=index.int()), {"quantization_config": CONFIG | {"desc_act": desc_act}})
        found["m.weight"].read()


def test_act_order_needs_g_idx(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match=r"m\.qweight lacks its other parts"):
        opened(tmp_path, linear(PARTS, g_idx=None), {"quantization_config": CONFIG | {"desc_act": True}})


@pytest.mark.parametrize(
    ("packing", "case"), [("auto_round:auto_gptq", "v1-asym"), ("auto_round", "v2-asym"), ("auto_round:gptqmodel", "v2-asym")]
)
def test_auto_round_names_the_layout_it_packs(tmp_path: Path, packing: str, case: str) -> None:
    parts, config = GOLDEN[case]
    own = {
        "quant_method": "auto-round",
        "packing_format": packing,
        "sym": False,
        **{k: config[k] for k in ("bits", "group_size")},
    }
    found = opened(tmp_path, linear(parts, g_idx=None), {"quantization_config": own})
    assert torch.equal(dense(found["m.weight"].read()).half(), parts["values"])


def test_other_packings_of_auto_round_are_refused_by_name(tmp_path: Path) -> None:
    config = {"quant_method": "auto-round", "packing_format": "auto_round:fp8_static"}
    with pytest.raises(ModelUnsupported, match="quantization auto_round:fp8_static is not supported"):
        opened(tmp_path, linear(PARTS), {"quantization_config": config})
