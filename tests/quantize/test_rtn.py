from __future__ import annotations

import dataclasses

import pytest
import torch

from deepseek_cli.quantize.grid import SMALLEST_SCALE, snap
from deepseek_cli.quantize.rtn import quantize
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.tensors import pack, unpack

SCHEMES = [
    "int4-g32",
    "int4-g64",
    "int4-g128",
    "int4-g32-asym",
    "int4-g32-pos",
    "int8",
    "int8-g32",
    "int8-g64-asym",
    "int8-channel",
]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("shape", [(7, 128), (3, 160), (1100, 64)])
def test_every_code_is_the_nearest(name: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    scheme, weight = parse_scheme(name), torch.randn(shape) * 0.1
    quantized = quantize(weight, scheme)
    each = [
        dataclasses.replace(quantized, packed=pack(torch.full(shape, c, dtype=torch.uint8), scheme.bits))
        for c in range(1 << scheme.bits)
    ]
    best = torch.stack([(candidate.dequantize() - weight).abs() for candidate in each]).amin(0)
    torch.testing.assert_close((quantized.dequantize() - weight).abs(), best, atol=1e-6, rtol=0)
    assert quantized.shape == shape
    assert (quantized.zero is None) == scheme.symmetric


def test_the_largest_magnitude_maps_to_the_lowest_code() -> None:
    weight = torch.zeros(2, 32)
    weight[0, 3], weight[1, 5] = 2.0, -2.0
    quantized = quantize(weight, parse_scheme("int4-g32"))
    assert quantized.codes[0, 3] == 0
    assert quantized.codes[1, 5] == 0
    assert quantized.scale.flatten().tolist() == [-0.25, 0.25]


def test_positive_schemes_have_positive_scales() -> None:
    weight = torch.randn(16, 64)
    assert (quantize(weight, parse_scheme("int4-g32-pos")).scale > 0).all()
    assert (quantize(weight, parse_scheme("int4-g32")).scale < 0).any()


@pytest.mark.parametrize("name", SCHEMES)
def test_scales_are_portable(name: str) -> None:
    scale = quantize(torch.randn(8, 128) * torch.logspace(-6, 3, 8)[:, None], parse_scheme(name)).scale
    assert torch.equal(scale.bfloat16().float(), scale)
    assert torch.equal(scale.half().float(), scale)
    for product in (8, 128):
        assert torch.equal((product * scale).half().float(), product * scale)


def test_asymmetric_products_are_exact_in_fp16() -> None:
    quantized = quantize(torch.randn(64, 128), parse_scheme("int4-g32-asym"))
    assert quantized.zero is not None
    product = quantized.zero.float() * quantized.scale
    assert torch.equal(product.half().float(), product)


def test_a_zero_group_stays_zero() -> None:
    assert (quantize(torch.zeros(2, 64), parse_scheme("int4-g32")).dequantize() == 0).all()
    assert (quantize(torch.zeros(2, 64), parse_scheme("int8-asym")).dequantize() == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["int4-g32", "int8", "int4-g32-asym"])
def test_values_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    weight = torch.randn(4, 64)
    weight[2, 17] = bad
    with pytest.raises(ValueError, match="not finite"):
        quantize(weight, parse_scheme(name))


def test_snap_keeps_sign_and_floor() -> None:
    snapped = snap(torch.tensor([1e-12, -1e-12, 1.00390625, -3.0]))
    assert snapped.tolist() == [SMALLEST_SCALE, -SMALLEST_SCALE, 1.0, -3.0]
    assert snap(torch.tensor([1.0 + 1 / 64, 1.0 + 1 / 256]), bits=7).tolist() == [1.0 + 1 / 64, 1.0]


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_round_trips(bits: int) -> None:
    codes = torch.randint(0, 1 << bits, (5, 64), dtype=torch.uint8)
    assert torch.equal(unpack(pack(codes, bits), bits), codes)


def test_the_first_input_lies_in_the_low_nibble() -> None:
    assert pack(torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8), 4).tolist() == [[0x21, 0x43]]
