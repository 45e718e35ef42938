"""Low-rank corrections beside rounded weights: the optimum, on disk, in graphs, and betrayed by every change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from pydantic import ValidationError
from torch import Tensor

from deepseek_cli.deploy import find_target, verify
from deepseek_cli.deploy.engine import Deployed, deploy
from deepseek_cli.deploy.readback import GraphWeights
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import ModelCorrupt, ModelUnsupported, UsageError
from deepseek_cli.formats import correction
from deepseek_cli.formats.compressed import quantization_config
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize import rtn
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.gptq import damped
from deepseek_cli.quantize.low_rank import corrected
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.quantize.statistics import Statistics, gather
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from deepseek_cli.tensors import CorrectedTensor
from tests.deploy.bundles import flip_bit
from tests.deploy.test_gguf import merging_tokenizer
from tests.fp8_toys import DEEPSEEK as MIXED
from tests.toys import DEPLOYABLE, make_toy

pytestmark = pytest.mark.usefixtures("one_thread")
RANK = 4


def least(error: Tensor, hessian: Tensor, rank: int) -> float:
    """What a correction of `rank` leaves of the mean square error at least: the singular values of E H^½ beyond it, squared."""
    values, vectors = torch.linalg.eigh(hessian.double())
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return float(torch.linalg.svdvals(error.double() @ root)[rank:].square().sum())


def left(weight: Tensor, found: CorrectedTensor, hessian: Tensor) -> float:
    error = weight.double() - found.dequantize().double()
    return float((error @ hessian.double() * error).sum())


def statistics(inputs: int, drift: bool = False) -> Statistics:
    mixed = torch.randn(512, inputs) @ torch.randn(inputs, inputs) * torch.rand(inputs)
    original = mixed + 0.1 * torch.randn_like(mixed) if drift else None
    return gather([(mixed, original)], 1)


@pytest.mark.parametrize("shape", [(48, 96), (96, 64), (33, 160)], ids=["wide", "tall", "odd"])
def test_no_correction_of_the_rank_leaves_less_of_the_outputs_error(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, seen = torch.randn(shape), statistics(shape[1])
    rounded = rtn.quantize(weight, parse_scheme("int4-g32"))
    found = corrected(weight, rounded, RANK, seen)
    assert isinstance(found, CorrectedTensor)
    hessian = damped(seen.hessian)
    optimum = least(weight - rounded.dequantize(), hessian, RANK)
    before = least(weight - rounded.dequantize(), hessian, 0)
    assert optimum < 0.9 * before
    assert left(weight, found, hessian) == pytest.approx(optimum, rel=2e-3)  # its factors are bfloat16


@pytest.mark.parametrize("shape", [(48, 96), (96, 64)], ids=["wide", "tall"])
def test_without_text_all_inputs_count_alike(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    rounded = rtn.quantize(weight, parse_scheme("int4-g32"))
    found = corrected(weight, rounded, RANK)
    assert isinstance(found, CorrectedTensor)
    alike = torch.eye(shape[1])
    assert left(weight, found, alike) == pytest.approx(least(weight - rounded.dequantize(), alike, RANK), rel=2e-3)


def test_inputs_that_are_never_there_do_not_matter() -> None:
    torch.manual_seed(0)
    weight, seen = torch.randn(40, 32), statistics(32)
    seen.hessian[:16], seen.hessian[:, :16] = 0, 0
    rounded = rtn.quantize(weight, parse_scheme("int4-g32"))
    found = corrected(weight, rounded, RANK, seen)
    assert isinstance(found, CorrectedTensor)
    assert found.dequantize().isfinite().all()
    assert left(weight, found, seen.hessian) < left(weight, corrected(weight, rounded, 1, seen), seen.hessian)  # type: ignore[arg-type]


def test_a_rank_beyond_the_weights_own_leaves_nothing_but_rounding() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 64)
    found = corrected(weight, rtn.quantize(weight, parse_scheme("int4-g32")), 500, statistics(64))
    assert isinstance(found, CorrectedTensor)
    assert found.down.shape == (8, 64)
    assert (weight - found.dequantize()).norm() < 0.005 * weight.norm()


def test_rows_do_not_hang_on_how_many_are_computed() -> None:
    torch.manual_seed(0)
    weight = torch.randn(65, 96)
    found = corrected(weight, rtn.quantize(weight, parse_scheme("int4-g32")), 7, statistics(96))
    whole = found.dequantize()
    for rows in (slice(0, 1), slice(3, 40), torch.tensor([64, 0, 7])):
        assert torch.equal(found.rows(rows).dequantize(), whole[rows])


# a model, the whole way


def toy(folder: Path, family: str = "llama", **settings: Any) -> None:
    make_toy(folder / "toy", family, **{**DEPLOYABLE, **settings})
    merging_tokenizer().save(str(folder / "toy" / "tokenizer.json"))


def quantized(folder: Path, name: str, **options: Any) -> ModelHandle:
    store = Store(folder)
    spec = QuantizeSpec(**{"scheme": "int4-g32-r4", "tokens": 1024, "report": False, "level": "fast", **options})
    quantize(open_model(str(folder / "toy"), store), spec, store, folder / name)
    return open_model(str(folder / name), store)


def built(handle: ModelHandle, folder: Path, **options: Any) -> Deployed:
    return deploy(handle, DeploySpec(**options), Store(folder), folder / "bundle", threads=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    """int4-g32-r4, beside a bundle of it and the toy that it was made from."""
    folder = tmp_path_factory.mktemp("made")
    toy(folder)
    handle = quantized(folder, "q")
    built(handle, folder, verify="weights")
    return handle


@pytest.fixture
def copy(made: ModelHandle, tmp_path: Path) -> Path:
    """Of the folders: `q` and `bundle`."""
    return shutil.copytree(made.root.parent, tmp_path / "copy")


def test_a_folder_holds_it_says_so_and_gives_it_back(made: ModelHandle) -> None:
    ref = made.tensors["model.layers.1.mlp.up_proj.weight"]
    weight = ref.read()
    assert isinstance(weight, CorrectedTensor)
    assert (weight.up.shape, weight.down.shape) == ((96, 4), (4, 64))
    assert (ref.stored, ref.size_bytes) == ("int4-g32-r4", parse_scheme("int4-g32-r4").bytes_of(96, 64) + 16)  # its shape, int64
    assert made.manifest.quantization[ref.name] == "int4-g32-r4"
    assert made.manifest.quantization["lm_head.weight"] == "int8-channel"
    assert made.manifest.readers == ("deepseek",)


def test_the_option_is_the_schemes_own_rank(made: ModelHandle, tmp_path: Path) -> None:
    asked = quantized(made.root.parent, str(tmp_path / "asked"), scheme=None, group="32", rank=4)
    assert asked.manifest.quantization == made.manifest.quantization
    assert (asked.root / "model.safetensors").read_bytes() == (made.root / "model.safetensors").read_bytes()


def test_it_brings_every_weight_closer_on_text_that_it_did_not_see(made: ModelHandle, tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = open_model(str(made.root.parent / "toy"), store)
    spec = QuantizeSpec(scheme="int4-g32-r4", tokens=4096, report=False)
    notes = quantize(source, spec, store, tmp_path / "q").notes
    assert len(notes) == 14
    assert max(note["gain"] for note in notes.values()) < 1.0


def test_the_formats_own_library_refuses_it_by_its_field() -> None:
    config = quantization_config({"m": parse_scheme("int4-g32-r8")}, [])
    with pytest.raises(ValidationError, match="correction_rank"):
        QuantizationArgs(**config["config_groups"]["group_0"]["weights"])


@pytest.mark.parametrize("part", correction.PARTS)
def test_a_factor_that_is_missing_is_named(copy: Path, part: str) -> None:
    file, name = copy / "q" / "model.safetensors", f"model.layers.0.mlp.up_proj.{part}".encode()
    file.write_bytes(file.read_bytes().replace(name, name[:-1] + b"x"))
    with pytest.raises(ModelCorrupt, match=r"model\.layers\.0\.mlp\.up_proj\.weight lacks its other parts"):
        open_model(str(copy / "q"), Store(copy))


def test_a_rank_that_the_config_does_not_allow_is_corrupt(copy: Path) -> None:
    file = copy / "q" / "config.json"
    file.write_text(file.read_text().replace('"correction_rank": 4', '"correction_rank": 5'))
    with pytest.raises(ModelCorrupt, match="do not fit each other"):
        open_model(str(copy / "q"), Store(copy))


@pytest.mark.parametrize(
    ("family", "settings"), [("llama", {"attention_bias": True, "mlp_bias": True}), ("qwen3", {"tie_word_embeddings": True})]
)
def test_a_bundle_computes_it_and_is_verified_to_its_tokens(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    toy(tmp_path, family, **settings)
    found = built(quantized(tmp_path, "q"), tmp_path, verify="tokens").verification
    assert (found["level"], found["failed"], found["dense_fallbacks"]) == ("L3", False, [])
    nodes = GraphWeights(tmp_path / "bundle" / "model.onnx").graph.node
    assert sum(node.name.endswith(".corrected") for node in nodes) == 2 * 5  # q, k and v as one; o, gate, up, down


def test_rows_with_one_scale_keep_theirs_beside_int8_products(made: ModelHandle, tmp_path: Path) -> None:
    handle = quantized(made.root.parent, str(tmp_path / "q"), scheme="int8-channel-r4")
    assert built(handle, tmp_path, verify="logits", rounds_tokens=True).verification["level"] == "L2"


def test_experts_take_theirs_one_by_one(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", "deepseek_v3", **MIXED)
    found = built(quantized(tmp_path, "q"), tmp_path, verify="tokens").verification
    assert (found["level"], found["failed"]) == ("L3", False)


@pytest.mark.parametrize("part", ["correction_up", "correction_down"])
def test_one_changed_bit_fails_and_names_its_tensor(made: ModelHandle, copy: Path, part: str) -> None:
    stem = "model.layers.0.mlp.down_proj"
    assert verify.check_weights(find_target("cpu"), made, copy / "bundle")["ok"]
    flip_bit(copy / "bundle", f"{stem}.{part}")
    check = verify.check_weights(find_target("cpu"), made, copy / "bundle")
    assert check["differing"] == [f"{stem}.weight"]


def test_a_changed_folder_fails_its_digests(cli: Any, copy: Path) -> None:
    file = copy / "q" / "model.safetensors"
    content = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    start, _ = json.loads(content[8:begin])["model.layers.0.mlp.down_proj.weight_correction_up"]["data_offsets"]
    content[begin + start] ^= 1
    file.write_bytes(content)
    assert cli("verify", copy / "q").code == 1


# where there is no place for it


@pytest.mark.parametrize("target", ["openvino", "gguf", "metal"])
def test_others_hold_the_sum_dense_and_list_it(made: ModelHandle, tmp_path: Path, target: str) -> None:
    found = built(made, tmp_path, target=target, verify="weights").verification
    assert found["level"] == "L1"
    assert "model.layers.0.mlp.up_proj.weight" in found["dense_fallbacks"]


@pytest.mark.parametrize("target", ["vllm", "tensorrt", "mobile"])
def test_or_refuse_it_by_name(made: ModelHandle, tmp_path: Path, target: str) -> None:
    handle = quantized(made.root.parent, str(tmp_path / "q"), scheme="int4-g32-pos-r4", algorithm="search", tokens=None)
    with pytest.raises(ModelUnsupported) as refused:
        built(handle, tmp_path, target=target)
    assert "no place for its low-rank correction" in refused.value.facts["reason"]


def test_a_size_to_reach_counts_it(made: ModelHandle, tmp_path: Path) -> None:
    handle = quantized(made.root.parent, str(tmp_path / "q"), scheme=None, rank=4, to_bpw=8.0)
    assert {text[-3:] for text in handle.manifest.quantization.values() if text.startswith("int4")} == {"-r4"}
    assert 7.0 < 8 * handle.size_bytes / handle.parameters <= 8.0


def test_scales_learn_beside_it(made: ModelHandle, tmp_path: Path) -> None:
    learned = quantized(made.root.parent, str(tmp_path / "q"), tokens=2048, steps=1, rate=0.01)
    assert learned.tensors["model.layers.0.mlp.up_proj.weight"].stored == "int4-g32-r4"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rank": -1}, "rank=-1 is not between"),
        ({"rank": 10_000}, "rank=10000 is not between"),
        ({"rank": 4, "scheme": "bf16"}, "does not go with bf16"),
        ({"rank": 4, "scheme": "q4_k_m"}, "does not go with q4_k_m"),
        ({"rank": 4, "scheme": "int4-g32-r8"}, "does not go with int4-g32-r8"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        QuantizeSpec(**options).resolve(1_000_000)
