"""MLX folders against what MLX itself packed and dequantizes (golden/make.py), and what hostile folders hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.errors import ModelCorrupt, ModelError
from deepseek_cli.formats.grouped import affine
from deepseek_cli.formats.mlx import join_expansion, split_expansion
from deepseek_cli.tensors import QuantizedTensor, dense
from tests.formats.imported import golden, linear, opened

GOLDEN = golden("mlx")
STORED = {
    "g64": "affine int4-g64 mlx",
    "g32": "affine int4-g32 mlx",
    "int8": "affine int8-g128 mlx",
    "whole": "affine int4-g64 mlx",
    "whole-int8": "affine int8-g64 mlx",
}
PARTS, CONFIG = GOLDEN["g64"]


@pytest.mark.parametrize("case", GOLDEN)
def test_values_are_those_of_mlx(tmp_path: Path, case: str) -> None:
    parts, config = GOLDEN[case]
    ref = opened(tmp_path, linear(parts), {"quantization": config, "quantization_config": config})["m.weight"]
    weight = ref.read()
    assert isinstance(weight, QuantizedTensor)
    assert (ref.stored, ref.shape) == (STORED[case], (16, 128))
    assert torch.equal(weight.dequantize(), parts["values"])
    assert (weight.offset is None) == case.startswith("whole")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_offsets_become_zero_points_only_where_all_values_stay(bits: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    packed = torch.randint(256, (8, 64 * bits // 8), dtype=torch.uint8)
    scale = torch.randn(8, 2).to(dtype).float()
    zero = torch.randint(1 << bits, (8, 2)).float()
    offset = -zero * scale
    found = affine(packed, scale, offset, bits, 32)
    assert found.offset is None and found.zero is not None
    assert torch.equal(found.zero.float(), zero)
    assert torch.equal(found.dequantize(), QuantizedTensor(packed, scale, bits, 32, offset=offset).dequantize())
    beside = offset.clone()
    beside[3, 1] = beside[3, 1].nextafter(torch.tensor(1e9))
    outside, nothing = -(zero + 256) * scale, torch.zeros(8, 2)
    for kept, other in ((scale, beside), (scale, outside), (scale, scale), (nothing, nothing + 1), (scale, scale * torch.nan)):
        assert affine(packed, kept, other, bits, 32).offset is other


def test_zero_points_in_the_middle_are_left_out_and_no_scale_is_a_scale() -> None:
    packed = torch.randint(256, (4, 16), dtype=torch.uint8)
    scale = torch.tensor([[0.5], [0.25], [-0.125], [0.0]])
    assert affine(packed, scale, -8 * scale, 4, 32).zero is not None  # 0 is what nothing is a multiple of
    found = affine(packed[:3], scale[:3], -8 * scale[:3], 4, 32)
    assert found.zero is None and found.offset is None


def test_scales_of_full_precision_keep_their_offsets() -> None:
    """(code - zero) * scale and code * scale + offset round differently there."""
    scale = torch.full((1, 1), 0.1)
    assert affine(torch.zeros(1, 16, dtype=torch.uint8), scale, -8 * scale, 4, 32).offset is not None


def test_rules_for_single_modules(tmp_path: Path) -> None:
    int8, _ = GOLDEN["int8"]
    tensors = {**linear(PARTS), **{f"n.{p}": t for p, t in int8.items() if p != "values"}, "o.weight": torch.ones(2, 3)}
    rules = {**CONFIG, "n": {"group_size": 128, "bits": 8}, "o": False}
    found = opened(tmp_path, tensors, {"quantization": rules})
    assert {name: ref.stored for name, ref in found.items()} == {
        "m.weight": STORED["g64"],
        "n.weight": STORED["int8"],
        "o.weight": "f32",
    }
    assert torch.equal(dense(found["n.weight"].read()), int8["values"])


def test_stacked_experts_come_one_by_one(tmp_path: Path) -> None:
    stack = "model.layers.1.mlp.switch_mlp"
    flipped = {part: t.flip(0) for part, t in PARTS.items()}
    tensors = {f"{stack}.up_proj.{p}": torch.stack((PARTS[p], flipped[p])) for p in PARTS if p != "values"}
    dense_stack = {f"{stack}.down_proj.weight": torch.arange(24.0).view(2, 3, 4)}
    rules = {**CONFIG, "bits": 8, f"{stack}.up_proj": CONFIG}
    found = opened(tmp_path, {**tensors, **dense_stack}, {"quantization": rules})
    experts = "model.layers.1.mlp.experts"
    assert found.keys() == {f"{experts}.{i}.{p}_proj.weight" for i in (0, 1) for p in ("up", "down")}
    assert torch.equal(dense(found[f"{experts}.0.up_proj.weight"].read()), PARTS["values"])
    assert torch.equal(dense(found[f"{experts}.1.up_proj.weight"].read()), PARTS["values"].flip(0))
    assert torch.equal(dense(found[f"{experts}.1.down_proj.weight"].read()), torch.arange(12.0, 24.0).view(3, 4))
    assert found[f"{experts}.0.up_proj.weight"].size_bytes == sum(t.nbytes for p, t in PARTS.items() if p != "values")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mode": "mxfp4"}, "quantization_config.mode mxfp4 is not supported. Supported are affine"),
        ({"m": {"mode": "nvfp4"}}, "quantization_config.mode nvfp4 is not supported"),
        ({"bits": 6}, "quantization_config.bits 6 is not supported. Supported are 4, 8"),
        ({"m": {"bits": 3}}, "quantization_config.m.bits 3 is not supported"),
        ({"bits": "4"}, "quantization_config.bits must be a positive integer"),
        ({"bits": 8}, "parts of tensor m.weight do not fit"),
        ({"group_size": 32}, "parts of tensor m.weight do not fit"),
        ({"group_size": None}, "parts of tensor m.weight do not fit"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        opened(tmp_path, linear(PARTS), {"quantization": CONFIG | change})
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scales": None}, "m.weight lacks its other parts"),
        ({"biases": None}, "m.weight lacks its other parts"),
        ({"scales": PARTS["scales"][:, :1]}, "parts of tensor m.weight do not fit"),
        ({"biases": PARTS["biases"].flatten()}, "parts of tensor m.weight do not fit"),
        ({"biases": PARTS["biases"].int()}, "m.biases of dtype i32"),
        ({"weight": PARTS["weight"].view(torch.int32)}, "m.weight of dtype i32"),
        ({"weight": PARTS["weight"][0]}, "parts of tensor m.weight do not fit"),
        ({"scales": PARTS["scales"][0, 0]}, r"m.scales of dtype f16 and shape \[\]"),
        ({"weight": PARTS["weight"][:, :0]}, "m.weight of dtype u32 and shape"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelCorrupt, match=says) as caught:
        opened(tmp_path, linear(PARTS, **change), {"quantization": CONFIG})
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 4), (1 << 40, 0, 4)])
def test_a_stack_that_is_none(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelCorrupt, match=r"switch_mlp.up_proj.weight of shape .* is no stack of experts"):
        opened(tmp_path, {"model.layers.0.mlp.switch_mlp.up_proj.weight": torch.ones(shape)}, {"quantization": CONFIG})


def test_a_kv_b_proj_in_parts_is_joined() -> None:
    weight = torch.randn(2 * (4 + 5), 3)
    keys, values = split_expansion(weight, heads=2, nope=4)
    assert (keys.shape, values.shape) == ((2, 3, 4), (2, 5, 3))
    assert torch.equal(keys[1, :, 2], weight[9 + 2]) and torch.equal(values[1, 0], weight[9 + 4])
    assert torch.equal(join_expansion(keys, values), weight)


@pytest.mark.parametrize(
    ("keys", "values", "says"),
    [
        (torch.ones(2, 3, 4), None, r"kv_b_proj.weight lacks its other parts"),
        (torch.ones(2, 3, 4), torch.ones(2, 5, 4), r"parts of tensor model.layers.0.self_attn.kv_b_proj.weight do not fit"),
        (torch.ones(2, 3, 4), torch.ones(15, 3), r"parts of tensor model.layers.0.self_attn.kv_b_proj.weight do not fit"),
        (torch.ones(2, 3, 4).to(torch.uint32), torch.ones(2, 5, 3), r"embed_q\.weight is a quantized part of kv_b_proj"),
        (torch.ones(2, 3, 4), torch.ones(2, 5, 3).to(torch.uint32), r"unembed_out\.weight is a quantized part of kv_b_proj"),
    ],
)
def test_parts_of_kv_b_proj_that_cannot_be_joined(tmp_path: Path, keys: Any, values: Any, says: str) -> None:
    parts = {f"model.layers.0.self_attn.{n}.weight": t for n, t in (("embed_q", keys), ("unembed_out", values)) if t is not None}
    with pytest.raises(ModelError, match=says):
        opened(tmp_path, parts, {"quantization": CONFIG})


def test_a_quantization_that_is_no_object_is_none(tmp_path: Path) -> None:
    assert opened(tmp_path, {"m.weight": torch.ones(2, 3)}, {"quantization": "4bit"})["m.weight"].stored == "f32"


def test_another_method_beside_it_wins(tmp_path: Path) -> None:
    parts, config = golden("awq")["asym"]
    found = opened(tmp_path, linear(parts), {"quantization": CONFIG, "quantization_config": config})
    assert found["m.weight"].stored.endswith("awq")
