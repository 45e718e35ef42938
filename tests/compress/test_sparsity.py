"""Zeros: how many, what they cost, and that rounding leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepseek_cli.compress.inputs import each_block
from deepseek_cli.compress.shape import Shape
from deepseek_cli.compress.sparsity import Pattern, parse_pattern, pruned
from deepseek_cli.compress.write import write
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.store import Store
from deepseek_cli.tensors import dense
from tests.compress.test_steps import MIXTURE, open_toy, shaped
from tests.toys import DEPLOYABLE

LAYERS = "model.layers."


def weights(shape: Shape) -> dict[str, Tensor]:
    refs = shape.handle.stored.items()
    return {name: dense(ref.read()).float() for name, ref in refs if name.startswith(LAYERS) and name.endswith("_proj.weight")}


def correlated(inputs: int, rows: int = 4000) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(inputs, inputs, generator=generator) / inputs**0.5
    return torch.randn(rows, inputs, generator=generator) @ (torch.eye(inputs) + 2 * mixed)


def alone(weight: Tensor, pattern: Pattern) -> Tensor:
    """The same number of zeros, where the values are smallest; nothing makes good for them."""
    if pattern.of:
        runs = weight.view(len(weight), -1, pattern.of)
        return runs.scatter(2, runs.abs().argsort(2)[..., : int(pattern.gone)], 0).view_as(weight)
    return weight.where(weight.abs() > weight.abs().flatten().kthvalue(round(pattern.gone * weight.numel())).values, 0)


@pytest.mark.parametrize(("text", "most"), [("2:4", 0.7), ("50%", 0.7), ("70%", 0.9)])
def test_what_stays_makes_good(text: str, most: float) -> None:
    pattern, x = parse_pattern(text), correlated(256)
    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(2))
    seen, held_out = x[:-200], x[-200:]
    ours = pruned(weight, seen.T @ seen / len(seen), pattern)
    changed, otherwise = (float((held_out @ (w - weight).T).square().sum()) for w in (ours, alone(weight, pattern)))
    assert changed < most * otherwise
    zeros = ours == 0
    if pattern.of:
        assert (zeros.view(48, -1, 4).sum(2) == 2).all()
    else:
        assert zeros.float().mean() == pytest.approx(pattern.gone, abs=1e-4)


def test_without_correlation_nothing_moves_and_the_smallest_go() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(pruned(weight, torch.eye(64), Pattern(2, 4)), alone(weight, Pattern(2, 4)))


def test_every_run_of_four_inputs_has_two_zeros_experts_too(tmp_path: Path) -> None:
    handle = open_toy(tmp_path / "toy", "deepseek_v3", **MIXTURE, n_group=2, topk_group=2)
    shape = shaped(handle, "sparsity=2:4", tmp_path / "ranks")
    found = {name: w for name, w in weights(shape).items() if "kv_b" not in name and ".2." not in name[:16]}
    assert any(".experts." in name for name in found)
    for name, weight in found.items():
        assert ((weight.view(len(weight), -1, 4) == 0).sum(2) == 2).all(), name
    assert shape.handle.stored.keys() == handle.stored.keys()


def test_the_next_block_sees_what_this_one_became(tmp_path: Path) -> None:
    handle = open_toy(tmp_path / "toy", "llama", **DEPLOYABLE)
    shape = shaped(handle, "sparsity=50%", tmp_path / "ranks")
    second, met = f"{LAYERS}1.mlp.down_proj", dict[str, Tensor]()
    halfway = {name: (handle if name.startswith(f"{LAYERS}1.") else shape.handle).stored[name] for name in handle.stored}
    each_block(shape.with_model({}, halfway), second.__eq__, lambda layer, hessians, weight: met.update(hessians))
    wanted = pruned(dense(handle.stored[f"{second}.weight"].read()), met[second], Pattern(0.5))
    assert torch.allclose(weights(shape)[f"{second}.weight"], wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("algorithm", "scheme"),
    [
        ("gptaq", "int4-g32"),
        ("gptaq", "int4-g32-asym"),
        ("refine", "int4-g32"),
        ("autoround", "int4-g32"),
        ("hqq", "int4-g32-asym"),
    ],
)
def test_rounding_leaves_zeros(tmp_path: Path, algorithm: str, scheme: str) -> None:
    handle = open_toy(tmp_path / "toy", "llama", **DEPLOYABLE)
    shape = shaped(handle, "sparsity=2:4", tmp_path / "ranks")
    write(shape, handle, (), tmp_path / "sparse")
    sparse, store = open_model(str(tmp_path / "sparse"), Store(tmp_path)), Store(tmp_path)
    quantize(sparse, QuantizeSpec(scheme=scheme, algorithm=algorithm), store, tmp_path / "small")
    small = open_model(str(tmp_path / "small"), store)
    for name, ref in sparse.stored.items():
        if name.startswith(LAYERS) and name.endswith("_proj.weight"):
            zeros, rounded = ref.read() == 0, small.stored[name].read()
            assert small.stored[name].quantized and not dense(rounded)[zeros].any(), name


@pytest.mark.parametrize(("steps", "named"), [("sparsity=3:4", "3:4"), ("sparsity=120%", "120%"), ("sparsity=half", "half")])
def test_what_cannot_be(tmp_path: Path, steps: str, named: str) -> None:
    handle = open_toy(tmp_path / "toy", "llama", **DEPLOYABLE)
    with pytest.raises(UsageError, match=named):
        shaped(handle, steps, tmp_path / "ranks")
