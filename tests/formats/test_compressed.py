from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.naive_quantized import IntQuantizationCompressor
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt, ModelError, ModelUnsupported
from deepseek_cli.formats.compressed import parts_of, planned_parts, quantization_config
from deepseek_cli.formats.quantized import assemble
from deepseek_cli.formats.safetensors import NAMES
from deepseek_cli.quantize.rtn import quantize
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.tensors import QuantizedTensor, TensorRef

FILE = Path("config.json")
THREE = ["int3-g32", "int3-g64", "int3-g32-asym", "int3-g64-asym"]


def refs(weight: QuantizedTensor, name: str = "m") -> dict[str, TensorRef]:
    return references(dict(parts_of(name, weight)))


def references(tensors: dict[str, Tensor]) -> dict[str, TensorRef]:
    return {
        n: TensorRef(n, tuple(t.shape), NAMES[t.dtype].lower(), t.nbytes, lambda t=t: t)  # type: ignore[misc]
        for n, t in tensors.items()
    }


@pytest.mark.parametrize("inputs", [64, 160])
@pytest.mark.parametrize(
    "name", ["int4-g32", "int4-g64", "int8", "int8-g32", "int4-g32-asym", "int4-g64-asym", "int8-asym", *THREE]
)
def test_parts_join_to_the_same_weight(name: str, inputs: int) -> None:
    scheme, weight = parse_scheme(name), torch.randn(12, inputs)
    quantized = quantize(weight, scheme)
    config = {"quantization_config": quantization_config({"m": scheme}, [])}
    joined = assemble(refs(quantized), config, FILE)["m.weight"]
    again = joined.read()
    assert isinstance(again, QuantizedTensor)
    assert joined.stored == str(scheme)
    assert again.bits == max(quantized.bits, 4)  # what was three bits lies in four
    assert torch.equal(again.with_bits(quantized.bits).packed, quantized.packed)
    assert torch.equal(again.dequantize(), quantized.dequantize())
    assert [(n, t.dtype, tuple(t.shape)) for n, t in parts_of("m", quantized)] == [
        (p.name, p.dtype, p.shape) for p in planned_parts("m", (12, inputs), scheme)
    ]


@pytest.mark.parametrize("name", ["int3-g32", "int4-g32", "int8-g32"])
def test_codes_are_what_the_formats_own_library_unpacks(name: str) -> None:
    quantized = quantize(torch.randn(12, 64), parse_scheme(name))
    parts = dict(parts_of("m", quantized))
    signed = unpack_from_int32(parts["m.weight_packed"], quantized.bits, torch.Size((12, 64)))
    assert torch.equal(signed.int() + (1 << (quantized.bits - 1)), quantized.codes.int())


@pytest.mark.parametrize("rows", [12, 44])
@pytest.mark.parametrize("bits", [3, 4])
def test_zero_points_are_what_the_formats_own_library_unpacks(bits: int, rows: int) -> None:
    quantized = quantize(torch.randn(rows, 64), parse_scheme(f"int{bits}-g32-asym"))
    parts = dict(parts_of("m", quantized))
    signed = unpack_from_int32(parts["m.weight_zero_point"], bits, torch.Size((rows, 2)), packed_dim=0)
    assert quantized.zero is not None
    assert torch.equal(signed.int() + (1 << bits - 1), quantized.zero.int())


def test_a_missing_scale_names_its_tensor() -> None:
    parts = refs(quantize(torch.randn(4, 64), parse_scheme("int4-g32")))
    del parts["m.weight_scale"]
    with pytest.raises(ModelCorrupt, match=r"m\.weight_packed lacks its scale"):
        assemble(parts, {"quantization_config": quantization_config({"m": parse_scheme("int4-g32")}, [])}, FILE)


def test_a_group_size_that_disagrees_names_its_tensor() -> None:
    parts = refs(quantize(torch.randn(4, 64), parse_scheme("int4-g32")))
    with pytest.raises(ModelCorrupt, match=r"parts of tensor m\.weight"):
        assemble(parts, {"quantization_config": quantization_config({"m": parse_scheme("int4-g128")}, [])}, FILE)


def test_other_formats_are_refused_by_name() -> None:
    with pytest.raises(ModelUnsupported, match="quantization bitsandbytes is not supported"):
        assemble({}, {"quantization_config": {"quant_method": "bitsandbytes"}}, FILE)


def test_one_scheme_targets_all_linears_and_several_name_their_modules() -> None:
    one = quantization_config({"a": parse_scheme("int4-g32"), "b": parse_scheme("int4-g32")}, ["lm_head"])
    assert [g["targets"] for g in one["config_groups"].values()] == [["Linear"]]
    two = quantization_config({"a": parse_scheme("int4-g32"), "b": parse_scheme("int8")}, [])
    assert [g["targets"] for g in two["config_groups"].values()] == [["a"], ["b"]]
    assert json.loads(json.dumps(two)) == two


# what llm-compressor writes: the library's own compressors, configs and values


def library(bits: int, group: int | None, symmetric: bool, activations: bool = False) -> tuple[dict[str, Tensor], Any, Tensor]:
    """A linear called m, packed or (with activations quantized) in bytes; its config; and the values that the library gives."""
    torch.manual_seed(bits)
    weight, low = torch.randn(12, 64), -(1 << (bits - 1))
    strategy: dict[str, Any] = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, **strategy)
    inputs = QuantizationArgs(num_bits=8, strategy="token", dynamic=True) if activations else None
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    compressor = IntQuantizationCompressor if activations else PackedQuantizationCompressor
    blocks = weight.view(12, -1, group or 64)
    span = blocks.amax(-1) - blocks.amin(-1)
    scale = (span / (2**bits - 1) if not symmetric else blocks.abs().amax(-1) / -low).bfloat16()
    state = {"weight": weight.bfloat16(), "weight_scale": scale}
    if not symmetric:
        zero = (low - blocks.amin(-1) / scale.float()).round().clamp(low, -low - 1)
        state["weight_zero_point"] = zero.to(torch.int8)
    state = compressor.compress(state, scheme)
    values = compressor.decompress(state, scheme)["weight"]
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        format="int-quantized" if activations else "pack-quantized",
        quantization_status="compressed",
        ignore=["lm_head"],
    )
    return {f"m.{part}": t.contiguous() for part, t in state.items()}, config.model_dump(mode="json"), values


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("bits", "group", "name"), [(3, 32, "int3-g32"), (4, 32, "int4-g32"), (8, 32, "int8-g32"), (8, None, "int8-channel")]
)
def test_values_are_those_of_the_formats_own_library(
    bits: int, group: int | None, name: str, symmetric: bool, activations: bool
) -> None:
    parts, config, values = library(bits, group, symmetric, activations)
    found = assemble(references(parts), {"quantization_config": config}, FILE)
    assert found.keys() == {"m.weight"}
    weight = found["m.weight"].read()
    assert isinstance(weight, QuantizedTensor)
    assert found["m.weight"].stored == (name if bits == 8 or not activations else "int8-g32") + "-asym" * (not symmetric)
    assert torch.equal(weight.dequantize().bfloat16(), values)


def test_groups_in_the_order_of_activations() -> None:
    """`actorder: group`: the scale of an input is that of its group in weight_g_idx; -1 throughout is none."""
    parts, config, _ = library(4, 32, symmetric=False)
    straight = assemble(references(parts), {"quantization_config": config}, FILE)["m.weight"].read()
    assert isinstance(straight, QuantizedTensor)
    index = torch.arange(64).remainder(2).int()
    ref = assemble(references({**parts, "m.weight_g_idx": index}), {"quantization_config": config}, FILE)["m.weight"]
    found, zero = ref.read(), straight.zero
    assert isinstance(found, QuantizedTensor) and zero is not None
    assert ref.stored == "act-order int4-g32-asym"
    exact = (straight.codes.float() - zero.float()[:, index]) * straight.scale[:, index]
    assert torch.equal(found.dequantize(), exact)
    none = assemble(references({**parts, "m.weight_g_idx": index * 0 - 1}), {"quantization_config": config}, FILE)[
        "m.weight"
    ].read()
    assert isinstance(none, QuantizedTensor)
    assert torch.equal(none.dequantize(), straight.dequantize())


PACKED, PACKED_CONFIG, _ = library(4, 32, symmetric=False)
BYTES, BYTES_CONFIG, _ = library(8, None, symmetric=False, activations=True)


def weights_of(change: dict[str, Any]) -> dict[str, Any]:
    group = PACKED_CONFIG["config_groups"]["group_0"]
    return {"config_groups": {"group_0": {**group, "weights": {**group["weights"], **change}}}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"format": "naive-quantized"},
            "quantization_config.format naive-quantized is not supported. Supported are pack-quantized",
        ),
        ({"format": "marlin-24"}, "quantization_config.format marlin-24 is not supported"),
        ({"format": "mixed-precision"}, "quantization_config.format mixed-precision is not supported"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config.format sparse-24-bitmask is not supported"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transform_config.config_groups .* is not supported"),
        ({"config_groups": None}, "has no sound config_groups"),
        ({"config_groups": {"group_0": {"weights": {}, "targets": 3}}}, "has no sound config_groups"),
        (weights_of({"num_bits": 2}), "config_groups.weights.num_bits 2 is not supported. Supported are 3, 4, 8"),
        (weights_of({"type": "float"}), "config_groups.weights.type float is not supported"),
        (weights_of({"strategy": "tensor"}), "config_groups.weights.strategy tensor is not supported"),
        (weights_of({"group_size": "x"}), "quantization_config.group_size must be a positive integer"),
    ],
)
def test_settings_that_do_not_fit(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        assemble(references(PACKED), {"quantization_config": PACKED_CONFIG | change}, FILE)
    assert caught.value.exit_code == 3


def test_formats_may_stand_with_their_groups() -> None:
    group = PACKED_CONFIG["config_groups"]["group_0"] | {"format": "pack-quantized"}
    config = PACKED_CONFIG | {"format": "mixed-precision", "config_groups": {"group_0": group}}
    assert assemble(references(PACKED), {"quantization_config": config}, FILE).keys() == {"m.weight"}


@pytest.mark.parametrize(
    ("tensors", "change"),
    [
        (PACKED, {"m.weight_g_idx": torch.zeros(63, dtype=torch.int32)}),
        (PACKED, {"m.weight_g_idx": torch.full((64,), 9, dtype=torch.int32)}),
        (PACKED, {"m.weight_scale": PACKED["m.weight_scale"].int()}),
        (PACKED, {"m.weight_packed": PACKED["m.weight_packed"].float()}),
        (PACKED, {"m.weight_zero_point": PACKED["m.weight_zero_point"][:1]}),
        (PACKED, {"m.weight_shape": torch.tensor([12.0, torch.nan])}),
        (PACKED, {"m.weight_shape": torch.tensor([12, 0]), "m.weight_scale": torch.tensor(1.0)}),
        (BYTES, {"m.weight_scale": torch.tensor(1.0)}),
        (BYTES, {"m.weight_scale": None}),
        (BYTES, {"m.weight_scale": BYTES["m.weight_scale"].flatten()}),
        (BYTES, {"m.weight_zero_point": BYTES["m.weight_zero_point"].int()}),
        (BYTES, {"m.weight_zero_point": BYTES["m.weight_zero_point"].T}),
        (BYTES, {"m.weight": BYTES["m.weight"].flatten()}),
        (BYTES, {"m.weight": BYTES["m.weight"][:, :0]}),
    ],
)
def test_tensors_that_do_not_fit(tensors: dict[str, Tensor], change: dict[str, Tensor | None]) -> None:
    kept = {name: t for name, t in {**tensors, **change}.items() if t is not None}
    config = PACKED_CONFIG if tensors is PACKED else BYTES_CONFIG
    with pytest.raises(ModelCorrupt, match=r"config\.json: .*m\.weight"):
        assemble(references(kept), {"quantization_config": config}, FILE)["m.weight"].read()
