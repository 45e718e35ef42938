"""Three bits: three on disk, and the same values in four wherever they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor, pack, unpack
from tests.deploy.test_gguf import merging_tokenizer
from tests.toys import DEPLOYABLE, make_toy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def handles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelHandle]:
    folder = tmp_path_factory.mktemp("int3")
    make_toy(folder / "toy", **DEPLOYABLE)
    merging_tokenizer().save(str(folder / "toy" / "tokenizer.json"))
    store, found = Store(folder), {}
    for scheme in ("int3-g32", "int3-g32-asym"):
        spec = QuantizeSpec(scheme=scheme, algorithm="refine", tokens=1024, report=False)
        quantize(open_model(str(folder / "toy"), store), spec, store, folder / scheme)
        found[scheme] = open_model(str(folder / scheme), store)
    return found


def test_codes_lie_one_behind_the_other() -> None:
    codes = torch.randint(0, 8, (5, 64), dtype=torch.uint8)
    stream = "".join(format(int(code), "03b")[::-1] for code in codes.flatten())  # least significant bit first
    wanted = [int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8)]
    assert pack(codes, 3).flatten().tolist() == wanted
    assert torch.equal(unpack(pack(codes, 3), 3), codes)


@pytest.mark.parametrize("scheme", ["int3-g32", "int3-g32-asym"])
def test_a_folder_takes_three_bits_and_gives_eight_levels(handles: dict[str, ModelHandle], scheme: str) -> None:
    ref = handles[scheme].tensors["model.layers.0.mlp.down_proj.weight"]
    weight = ref.read()
    assert isinstance(weight, QuantizedTensor)
    assert weight.bits == 4
    assert ref.stored == scheme
    assert ref.size_bytes == parse_scheme(scheme).bytes_of(64, 96) + 16  # its shape, int64
    levels = weight.codes.unflatten(1, (-1, 32)).int() - (8 if weight.zero is None else weight.zero.int()[..., None])
    assert levels.amax(-1).max() - levels.amin(-1).min() > 4
    assert (levels.amax(-1) - levels.amin(-1)).max() <= 7


@pytest.mark.parametrize("scheme", ["int3-g32", "int3-g32-asym"])
@pytest.mark.parametrize(
    ("target", "level"), [("cpu", "tokens"), ("gguf", "weights"), ("metal", "weights"), ("openvino", "weights")]
)
def test_targets_hold_them_as_four(handles: dict[str, ModelHandle], tmp_path: Path, target: str, level: Any, scheme: str) -> None:
    spec = DeploySpec(target=target, verify=level)
    found = deploy(handles[scheme], spec, Store(tmp_path), tmp_path / "bundle", threads=1).verification
    assert not found["failed"]
    assert [name for name in found["dense_fallbacks"] if ".layers." in name] == []


def test_vllm_takes_what_has_no_zero_points(handles: dict[str, ModelHandle], tmp_path: Path) -> None:
    spec = DeploySpec(target="vllm", verify="weights")
    found = deploy(handles["int3-g32"], spec, Store(tmp_path), tmp_path / "bundle", threads=1).verification
    assert not found["failed"]
