"""ggml's block formats: packed as ggml's own package reads them, searched, chosen as llama.cpp's Q4_K_M, and run by it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deepseek_cli import blocks
from deepseek_cli.deploy import outputs
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import ModelCorrupt, ModelUnsupported, UsageError
from deepseek_cli.formats.block_pack import pack_q4_k, pack_q5_0, pack_q6_k, pack_q8_0
from deepseek_cli.formats.quantized import assemble
from deepseek_cli.formats.safetensors import read_folder
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize import kquants
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.quantize.mixture import Blocks
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.quantize.statistics import gather
from deepseek_cli.schemes import BLOCK_BITS, parse_scheme
from deepseek_cli.store import Store
from deepseek_cli.tensors import BlockTensor, QuantizedTensor, dense
from tests.deploy.test_deepseek import OWN, TOY
from tests.deploy.test_gguf import merging_tokenizer
from tests.toys import DEPLOYABLE, make_toy

WIDE = DEPLOYABLE | {"hidden_size": 256, "intermediate_size": 288, "num_hidden_layers": 3}
FORMATS = list(kquants.FORMS)


def draw(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(high)).to(torch.uint8)


def factors(n: int, seed: int) -> Tensor:
    return torch.randn(n, 1, generator=torch.Generator().manual_seed(seed)).half().float()


def values(format: str, raw: Tensor) -> Tensor:
    """As ggml's own package decodes them."""
    return torch.from_numpy(gguf.quants.dequantize(raw.numpy(), gguf.GGMLQuantizationType[format.upper()]))


def test_packed_blocks_hold_every_code_and_scale() -> None:
    n, d, least = 5, factors(5, 0), factors(5, 1)
    spread = lambda t, size: t.float().repeat_interleave(size, 1)  # noqa: E731
    codes, scale, minimum = draw(16, n, 256), draw(64, n, 8), draw(63, n, 8)
    wanted = d * spread(scale, 32) * codes - least * spread(minimum, 32)
    torch.testing.assert_close(values("q4_k", pack_q4_k(codes, scale, minimum, d, least)), wanted)
    codes, signed = draw(64, n, 256), draw(255, n, 16).view(torch.int8)
    torch.testing.assert_close(values("q6_k", pack_q6_k(codes, signed, d)), d * spread(signed, 16) * (codes.float() - 32))
    codes = draw(32, n, 32)
    torch.testing.assert_close(values("q5_0", pack_q5_0(codes, d)), d * (codes.float() - 16))
    codes = draw(256, n, 32)
    torch.testing.assert_close(values("q8_0", pack_q8_0(codes, d)), d * (codes.float() - 128))


def normal(rows: int, inputs: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(rows, inputs, generator=draw) * torch.exp(torch.randn(rows, 1, generator=draw))


@pytest.mark.parametrize("format", FORMATS)
def test_sizes_and_values_are_those_of_ggml(format: str) -> None:
    weight, scheme = normal(7, 768), parse_scheme(format)
    found = kquants.quantize(weight, scheme)
    assert found.raw.numel() == scheme.bytes_of(7, 768) == 7 * 768 // blocks.BLOCKS[format].values * blocks.BLOCKS[format].bytes
    assert torch.equal(values(format, found.raw), found.dequantize())
    assert str(scheme) == format


@pytest.mark.parametrize(("format", "most"), [("q4_k", 0.072), ("q5_0", 0.041), ("q6_k", 0.0175), ("q8_0", 0.0051)])
def test_errors_of_normal_values(format: str, most: float) -> None:
    """ggml's own reference comes to .0427 for Q5_0 and .0054 for Q8_0."""
    weight = normal(64, 1024)
    assert (kquants.quantize(weight, parse_scheme(format)).dequantize() - weight).norm() / weight.norm() < most


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [0.0, 1e-9, 3.0, -3.0, 6e4])
def test_rows_of_one_value(format: str, value: float) -> None:
    found = kquants.quantize(torch.full((2, 256), value), parse_scheme(format)).dequantize()
    assert found.isfinite().all()
    np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("format", ["q4_k", "q5_0", "q6_k"])
def test_inputs_count_by_their_mean_square(format: str) -> None:
    weight, scheme = normal(32, 512), parse_scheme(format)
    x = torch.randn(2048, 512, generator=torch.Generator().manual_seed(1)) * torch.logspace(-1.5, 0.5, 512)[torch.randperm(512)]
    statistics = gather([(x, None)], 1)
    error = lambda found: statistics.error(weight, found.dequantize())  # noqa: E731
    assert error(kquants.quantize(weight, scheme, statistics)) < 0.9 * error(kquants.quantize(weight, scheme))


def test_more_bits_go_where_llama_cpp_puts_them() -> None:
    """As llama_model_quantize chooses for 30 layers and Q4_K_M."""
    layers = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]
    mixture, chosen = parse_scheme("q4_k_m"), Blocks(30, "lm_head")
    for part in ("self_attn.v_proj", "mlp.down_proj", "mlp.experts.3.down_proj"):
        formats = [str(chosen.of(f"model.layers.{i}.{part}", 256, mixture)[0]) for i in range(30)]
        assert [i for i, format in enumerate(formats) if format == "q6_k"] == layers
        assert {*formats} == {"q4_k", "q6_k"}
    assert str(chosen.of("lm_head", 256, mixture)[0]) == "q6_k"
    assert str(chosen.of("model.embed_tokens", 256, mixture)[0]) == "q4_k"
    found, reason = chosen.of("lm_head", 96, mixture)
    assert (str(found), reason) == ("q8_0", "its 96 inputs are not a multiple of 256, which q6_k wants")


def model(folder: Path, family: str = "llama", **settings: Any) -> ModelHandle:
    make_toy(folder / "toy", family, **settings)
    merging_tokenizer().save(str(folder / "toy" / "tokenizer.json"))
    return open_model(str(folder / "toy"), Store(folder))


def made(handle: ModelHandle, folder: Path, **options: Any) -> tuple[ModelHandle, Quantized]:
    store = Store(folder)
    done = quantize(handle, QuantizeSpec(**{"scheme": "q4_k_m", "report": False, **options}), store, folder / "quantized")
    return open_model(str(done.path), store), done


@pytest.mark.parametrize("options", [{"algorithm": "search"}, {"level": "fast", "tokens": 2048}], ids=["no text", "text"])
def test_a_mixture_is_carried_to_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    monkeypatch.setattr(outputs, "NEW_TOKENS", 8)
    handle, done = made(model(tmp_path, **WIDE), tmp_path, **options)
    stored = {name: ref.stored for name, ref in handle.weights.items() if ref.quantized}
    assert {*stored.values()} == {"q4_k", "q5_0", "q6_k", "q8_0"}
    assert stored["model.layers.0.mlp.down_proj.weight"] == "q5_0"
    assert stored["model.layers.2.mlp.down_proj.weight"] == "q8_0"
    assert (stored["lm_head.weight"], stored["model.layers.2.self_attn.v_proj.weight"]) == ("q6_k", "q6_k")
    assert isinstance(handle.tensors["model.layers.0.self_attn.q_proj.weight"].read(), BlockTensor)
    assert handle.size_bytes == done.size_bytes
    assert done.manifest
    assert done.manifest.readers == ("deepseek",)
    bundle = deploy(handle, DeploySpec(target="gguf", verify="tokens"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert (bundle.verification["level"], bundle.verification["dense_fallbacks"]) == ("L3", [])


def test_latents_and_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "NEW_TOKENS", 4)
    wide = {"hidden_size": 256, "moe_intermediate_size": 256, "intermediate_size": 256, "n_routed_experts": 4}
    handle, _ = made(
        model(tmp_path, "deepseek_v3", **TOY | OWN["deepseek_v3"] | wide | {"n_group": 2}), tmp_path, algorithm="search"
    )
    stored = {name.removeprefix("model.layers.1."): ref.stored for name, ref in handle.weights.items()}
    assert stored["mlp.experts.2.gate_proj.weight"] == "q4_k"
    assert stored["mlp.experts.2.down_proj.weight"] == "q6_k"
    assert (stored["self_attn.kv_b_proj.weight"], stored["self_attn.kv_a_proj_with_mqa.weight"]) == ("bf16", "q8_0")
    bundle = deploy(handle, DeploySpec(target="gguf", verify="tokens"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert (bundle.verification["level"], bundle.verification["dense_fallbacks"]) == ("L3", [])


def test_other_targets_widen_blocks_and_keep_q8_0(tmp_path: Path) -> None:
    handle, _ = made(model(tmp_path, **WIDE | {"num_hidden_layers": 1}), tmp_path, algorithm="search", rule=("lm_head=q8_0",))
    assert isinstance(handle.tensors["lm_head.weight"].read(), QuantizedTensor)
    done = deploy(handle, DeploySpec(target="cpu", verify="logits"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert done.verification["level"] == "L2"
    assert "model.layers.0.self_attn.q_proj.weight" in done.verification["dense_fallbacks"]
    assert "lm_head.weight" not in done.verification["dense_fallbacks"]


def test_q8_0_for_all_of_it(tmp_path: Path) -> None:
    handle, done = made(model(tmp_path, **DEPLOYABLE), tmp_path, scheme="q8_0")
    assert {str(item.scheme) for item in done.plan.items if not item.kept} == {"q8_0"}
    for name, ref in handle.weights.items():
        if ref.quantized:
            source = dense(open_model(str(tmp_path / "toy"), Store(tmp_path)).tensors[name].read()).float()
            assert (dense(ref.read()) - source).norm() / source.norm() < 0.006


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"algorithm": "gptq"}, "--algorithm gptq is for int4 and int8"),
    ({"qat": True}, "--qat is for int4 and int8"),
    ({"rule": ("lm_head=int4",)}, "lm_head would be int4-g32, and .* q4_k_m: a model holds codes or"),
    ({"scheme": "int4", "rule": ("lm_head=q6_k",)}, "would be int4-g32, and lm_head q6_k: a model holds codes or"),
    ({"to_bpw": 4.5}, "--scheme holds what --to-bpw is to choose"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_blocks_do_not_go_with_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(model(tmp_path, **DEPLOYABLE), tmp_path, **options)


def test_a_nan_is_named(tmp_path: Path) -> None:
    handle = model(tmp_path, **DEPLOYABLE)
    name = "model.layers.1.mlp.up_proj.weight"
    value = dense(handle.tensors[name].read()).clone()
    value[3, 5] = torch.nan
    damaged = {**handle.tensors, name: dataclasses.replace(handle.tensors[name], read=lambda: value)}
    with pytest.raises(ModelCorrupt, match=f"tensor {name} holds a NaN"):
        made(dataclasses.replace(handle, tensors=damaged), tmp_path, algorithm="search")


def test_other_blocks_than_asked_for_are_said(tmp_path: Path) -> None:
    plan = make_plan(model(tmp_path, **DEPLOYABLE), QuantizeSpec(scheme="q6_k"))
    assert {(str(item.scheme), item.instead) for item in plan.items if not item.kept} == {
        ("q8_0", f"its {inputs} inputs are not a multiple of 256, which q6_k wants") for inputs in (64, 96)
    }


@pytest.mark.parametrize(
    "part", [torch.zeros(2, 145, dtype=torch.uint8), torch.zeros(2, 144), torch.zeros(288, dtype=torch.uint8)]
)
def test_damaged_folders_of_blocks_name_the_weight(tmp_path: Path, part: Tensor) -> None:
    save_file({"m.weight.q4_k": part}, tmp_path / "model.safetensors")
    settings = {"quantization_config": {"quant_method": "ggml-blocks"}}
    with pytest.raises((ModelCorrupt, ModelUnsupported), match=r"m\.weight"):
        assemble(read_folder(tmp_path), settings, tmp_path / "config.json")


def test_schemes_and_formats_agree() -> None:
    assert {*BLOCK_BITS} == {*kquants.FORMS}
    for name, bits in BLOCK_BITS.items():
        assert blocks.BLOCKS[name].bytes * 8 == bits * blocks.BLOCKS[name].values
