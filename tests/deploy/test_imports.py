"""Other tools' quantized checkpoints, from their folder to a bundle that holds the same bits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepseek_cli.deploy.engine import bundle_bytes, deploy
from deepseek_cli.deploy.readback import GraphWeights
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.verify import same_bits
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor, dense
from tests.conftest import Outcome
from tests.fp8_toys import DEEPSEEK, change
from tests.gguf_toys import write_toy
from tests.imported_toys import to_awq, to_gptq, to_mlx
from tests.toys import DEPLOYABLE, make_toy

Import = Callable[[Path], dict[str, Tensor]]
LINEARS = 14  # of two layers
CARRIED: dict[str, tuple[Import, str]] = {
    "gptq": (to_gptq, "int4-g32-asym gptq"),
    "gptq-sym": (lambda folder: to_gptq(folder, sym=True), "int4-g32 gptq"),
    "gptq-int8": (lambda folder: to_gptq(folder, 8), "int8-g32-asym gptq"),
    "awq": (to_awq, "int4-g32-asym awq"),
    "mlx": (to_mlx, "affine int4-g32 mlx"),
    "mlx-int8": (lambda folder: to_mlx(folder, 8), "affine int8-g32 mlx"),
}
DENSE: dict[str, tuple[Import, str]] = {
    "gptq": (lambda folder: to_gptq(folder, act_order=True), "act-order int4-g32-asym gptq"),
    "mlx": (lambda folder: to_mlx(folder, whole=False), "affine int4-g32 mlx"),
}


def imported(folder: Path, make: Import) -> tuple[ModelHandle, dict[str, Tensor]]:
    make_toy(folder / "toy", attention_bias=True, **{k: v for k, v in DEPLOYABLE.items() if k != "attention_bias"})
    values = make(folder / "toy")
    return open_model(str(folder / "toy"), Store(folder)), values


@pytest.mark.parametrize("kind", CARRIED)
def test_codes_are_carried_and_verified_to_tokens(tmp_path: Path, kind: str) -> None:
    make, stored = CARRIED[kind]
    handle, values = imported(tmp_path, make)
    assert Counter(ref.stored for ref in handle.weights.values())[stored] == LINEARS
    for name, ref in handle.weights.items():
        assert torch.equal(dense(ref.read()), values[name]), name
    done = deploy(handle, DeploySpec(verify="tokens"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert (done.verification["level"], done.verification["dense_fallbacks"]) == ("L3", [])
    held = {
        name: weight
        for name, weight in GraphWeights(tmp_path / "bundle/model.onnx").each(handle)
        if name.endswith("_proj.weight")
    }
    assert len(held) == LINEARS
    for name, weight in held.items():
        assert isinstance(weight, QuantizedTensor)
        assert torch.equal(weight.dequantize(), values[name]), name
    assert bundle_bytes(handle) >= (tmp_path / "bundle/model.onnx.data").stat().st_size


@pytest.mark.parametrize("kind", DENSE)
def test_what_no_operator_holds_becomes_dense_and_is_listed(tmp_path: Path, kind: str) -> None:
    make, stored = DENSE[kind]
    handle, values = imported(tmp_path, make)
    names = {name for name, ref in handle.weights.items() if ref.stored == stored}
    assert len(names) == LINEARS
    done = deploy(handle, DeploySpec(verify="weights"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert done.verification["level"] == "L1"
    assert set(done.verification["dense_fallbacks"]) == names
    for name in names:
        weight = handle.weights[name].read()
        assert torch.equal(dense(weight), values[name])
        assert isinstance(weight, QuantizedTensor)
        plain = QuantizedTensor(weight.packed, weight.scale, weight.bits, weight.group, weight.zero)
        assert not same_bits(weight, plain)  # as if the order or the offset had been dropped


def test_experts_of_mlx_are_carried_too(tmp_path: Path) -> None:
    """A layer's experts lie in one stack there, and in one QMoE here."""
    make_toy(tmp_path / "toy", "deepseek_v2", **DEEPSEEK)
    values = to_mlx(tmp_path / "toy")
    file, stacks, kept = tmp_path / "toy/model.safetensors", {}, {}
    for name, tensor in load_file(file).items():
        before, found, rest = name.partition(".experts.")
        if found:
            expert, _, part = rest.partition(".")
            stacks.setdefault(f"{before}.switch_mlp.{part}", {})[int(expert)] = tensor
        else:
            kept[name] = tensor
    save_file(kept | {n: torch.stack([s[i] for i in sorted(s)]) for n, s in stacks.items()}, file)
    change(tmp_path / "toy", quantization={"group_size": 32, "bits": 4})
    handle = open_model(str(tmp_path / "toy"), Store(tmp_path))
    experts = [name for name in handle.weights if ".mlp.experts." in name]
    assert len(experts) == 2 * 8 * 3
    for name in experts:
        assert torch.equal(dense(handle.weights[name].read()), values[name]), name
    done = deploy(handle, DeploySpec(verify="weights"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert done.verification["level"] == "L1"
    assert not set(experts) & set(done.verification["dense_fallbacks"])


@pytest.mark.parametrize(("kind", "carried"), [(Type.Q4_0, True), (Type.Q8_0, True), (Type.Q4_1, False)], ids=str)
def test_gguf_blocks_with_whole_offsets_are_carried(tmp_path: Path, kind: Type, carried: bool) -> None:
    model = make_toy(tmp_path / "toy", **DEPLOYABLE)
    path = write_toy(tmp_path / "toy.gguf", model, "llama", matrices=kind)
    handle = open_model(str(path), Store(tmp_path))
    done = deploy(handle, DeploySpec(verify="weights"), Store(tmp_path), tmp_path / "bundle", threads=1)
    matrices = {name for name, ref in handle.weights.items() if ref.stored == kind.name.lower()}
    assert done.verification["level"] == "L1"
    assert set(done.verification["dense_fallbacks"]) == (set() if carried else matrices)
    assert len(matrices) == LINEARS + 2


def test_q4_1_whose_minima_are_multiples_of_its_scales_is_carried(tmp_path: Path) -> None:
    model = make_toy(tmp_path / "toy", **DEPLOYABLE)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                codes = torch.randint(16, parameter.shape)
                codes[:, ::32], codes[:, 1::32] = 0, 15  # so that each block spans its grid
                parameter.copy_((codes - 5) * 0.03125)
    path = write_toy(tmp_path / "toy.gguf", model, "llama", matrices=Type.Q4_1)
    handle = open_model(str(path), Store(tmp_path))
    weight = handle.weights["model.layers.0.mlp.down_proj.weight"].read()
    assert isinstance(weight, QuantizedTensor) and weight.zero is not None
    assert weight.zero.unique().tolist() == [5]
    down = model.state_dict()["model.layers.0.mlp.down_proj.weight"].float().numpy()
    theirs = gguf.quants.dequantize(gguf.quants.quantize(down, Type.Q4_1), Type.Q4_1)
    assert torch.equal(weight.dequantize(), torch.from_numpy(theirs))
    done = deploy(handle, DeploySpec(verify="tokens"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert (done.verification["level"], done.verification["dense_fallbacks"]) == ("L3", [])


@pytest.mark.parametrize("kind", ["gptq", "awq", "mlx"])
def test_what_is_quantized_again_says_so_and_opens(tmp_path: Path, kind: str) -> None:
    """config.json of the result names its own quantization and no other."""
    handle, _ = imported(tmp_path, CARRIED[kind][0])
    store = Store(tmp_path)
    quantize(handle, QuantizeSpec(scheme="int8", report=False), store, tmp_path / "again")
    config = json.loads((tmp_path / "again/config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert "quantization" not in config
    again = open_model(str(tmp_path / "again"), store)
    assert again.weights["model.layers.0.mlp.down_proj.weight"].stored == "int8-channel"


@pytest.mark.parametrize("kind", ["gptq", "awq", "mlx"])
def test_on_the_command_line(cli: Callable[..., Outcome], tmp_path: Path, kind: str) -> None:
    make, stored = CARRIED[kind]
    imported(tmp_path, make)
    shown = cli("show", tmp_path / "toy", "--json")
    assert shown.json["tensors"][stored] == LINEARS
    assert stored in cli("show", tmp_path / "toy").out
    ran = cli("run", tmp_path / "toy", "ab", "--raw", "--max-tokens", 4, "-q")
    assert (ran.code, bool(ran.out)) == (0, True)
    made = cli("deploy", tmp_path / "toy", "--target", "cpu", "-o", tmp_path / "bundle", "--verify", "weights", "-q")
    assert made.code == 0
    assert cli("run", tmp_path / "bundle", "ab", "--raw", "--max-tokens", 4, "-q").code == 0


@pytest.mark.parametrize(
    ("wrong", "says"), [({"bits": 3}, "bits 3 is not supported"), ({"group_size": 64}, "do not fit each other")]
)
def test_a_folder_that_cannot_be_read_is_exit_3(
    cli: Callable[..., Outcome], tmp_path: Path, wrong: dict[str, Any], says: str
) -> None:
    imported(tmp_path, to_gptq)
    settings = json.loads((tmp_path / "toy/config.json").read_text())["quantization_config"]
    change(tmp_path / "toy", quantization_config=settings | wrong)
    done = cli("show", tmp_path / "toy")
    assert done.code == 3
    assert says in done.err and "config.json" in done.err
