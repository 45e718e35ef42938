"""Scales that move from a norm into the weights behind it: nothing else changes, and rounding costs less."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.evaluate import cut_windows, evaluate_handle
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.ops import forward
from deepseek_cli.ops.norms import sole_readers
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.quantize import awq
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.quantize.fold import folded, lightened, lost
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.quantize.statistics import gather
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from deepseek_cli.tensors import HeldWeights, TensorRef, dense
from tests.fp8_toys import DEEPSEEK, add_draft
from tests.quantize.killed import killed
from tests.toys import DEPLOYABLE, make_toy

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS = 2048


def outliers(folder: Path) -> Path:
    """A toy with norms that make a few channels large, and weights that are the smaller there."""
    make_toy(folder, **DEPLOYABLE)
    tensors = load_file(folder / "model.safetensors")
    for name, value in tensors.items():
        if name.endswith("layernorm.weight"):
            value[3::16] *= 12
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            value[:, 3::16] /= 6
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return outliers(tmp_path / "toy")


def run(model: Path, out: Path, **options: Any) -> Quantized:
    store = Store(out.parent)
    spec = QuantizeSpec(**{"algorithm": "awq", "tokens": TOKENS, "report": False, **options})
    return quantize(open_model(str(model), store), spec, store, out)


def opened(folder: Path) -> ModelHandle:
    return open_model(str(folder), Store(folder.parent))


def kl(model: Path, folder: Path) -> float:
    original = opened(model)
    found = evaluate_handle(original, opened(folder), cut_windows(open_tokenizer(original.root), most=4))["kl"]
    assert isinstance(found, float)
    return found


def norms(folder: Path) -> dict[str, Tensor]:
    return {name: value for name, value in load_file(folder / "model.safetensors").items() if "norm" in name}


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@torch.inference_mode()
def logits(handle: ModelHandle) -> Tensor:
    tokens = torch.arange(3, 67)[None]
    found: Tensor = forward(TorchOps(HeldWeights(handle.weights)), handle.architecture, handle.config, tokens)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "deepseek_v3"])
def test_a_folded_model_is_the_same_model(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    make_toy(tmp_path / "toy", family, dtype=dtype, **(DEEPSEEK if "deepseek" in family else DEPLOYABLE))
    handle = opened(tmp_path / "toy")
    made = {}
    for norm in sole_readers(handle.architecture, handle.config).values():
        ref = handle.tensors[f"{norm}.weight"]
        after = lightened(ref, torch.logspace(-2, 2, ref.shape[0]))
        assert after.dtype == dtype
        made[ref.name] = TensorRef(ref.name, ref.shape, ref.stored, ref.size_bytes, lambda after=after: after)  # type: ignore[misc]
    before, after = logits(handle), logits(folded(handle, made))
    assert len(made) >= 4
    assert (before - after).abs().max() < 1e-4 * before.abs().max()


def test_a_norm_gives_away_what_its_dtype_can_say() -> None:
    values = torch.tensor([1.0, 0.0, -3.0, 6e-8, 60000.0], dtype=torch.float16)
    norm = TensorRef("norm.weight", (5,), "f16", 10, lambda: values)
    scale = torch.tensor([3.0, 5.0, 7.0, 100.0, 1e-3])
    after = lightened(norm, scale)
    assert after.tolist()[1:2] + after.tolist()[3:] == [0.0, *values.tolist()[3:]]  # zero; too small and too large to be held
    assert torch.equal(after.float() * lost(norm, after), values.float())
    assert torch.allclose(lost(norm, after)[[0, 2]], scale[[0, 2]], rtol=1e-3)
    assert lost(norm, after).tolist()[1] == 1.0


def test_the_folder_has_other_norms_and_weights_to_match(llama: Path, tmp_path: Path) -> None:
    done = run(llama, tmp_path / "q")
    before, after = norms(llama), norms(tmp_path / "q")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    by = {name.rpartition(".self_attn.")[0] or name: note for name, note in done.notes.items() if note["algorithm"] == "awq"}
    assert changed and "model.norm.weight" not in changed
    assert {name.split(".")[2] for name in changed} == {name.split(".")[2] for name in by}
    original, quantized = opened(llama), opened(tmp_path / "q")
    for names, norm in sole_readers(original.architecture, original.config).items():
        stored = f"{norm}.weight"
        scale = before[stored] / after[stored]
        for name in names:
            exact = dense(original.tensors[f"{name}.weight"].read())
            rounded = dense(quantized.tensors[f"{name}.weight"].read()) / scale
            assert (rounded - exact).norm() < 0.2 * exact.norm()
            assert (done.notes[f"{name}.weight"]["algorithm"] == "awq") == (stored in changed)
    assert max(done.errors.values()) < 0.2  # of what was rounded: the weights as they are behind the new norm
    assert {n["algorithm"] for name, n in done.notes.items() if "o_proj" in name or "down_proj" in name} == {"imatrix"}


def test_it_helps_where_some_inputs_are_much_larger(llama: Path, tmp_path: Path) -> None:
    found = {}
    for name in ("rtn", "imatrix", "awq"):
        run(llama, tmp_path / name, algorithm=name, tokens=None if name == "rtn" else TOKENS)
        found[name] = kl(llama, tmp_path / name)
    assert found["awq"] < 0.9 * found["imatrix"] < found["rtn"]


def test_a_result_deploys_to_its_tokens(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", **DEPLOYABLE)
    assert "awq" in {note["algorithm"] for note in run(tmp_path / "toy", tmp_path / "q").notes.values()}
    done = deploy(opened(tmp_path / "q"), DeploySpec(verify="tokens"), Store(tmp_path), tmp_path / "bundle", threads=1)
    assert done.verification["level"] == "L3" and not done.verification["failed"]


def test_a_killed_run_goes_on_with_the_same_bits(llama: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "whole")
    killed(llama, tmp_path / "q", 1, algorithm="awq", tokens=TOKENS)
    assert any("norm" in name for name in load_file(tmp_path / "q.work" / "codes-00000" / "model.safetensors"))
    run(llama, tmp_path / "q")
    assert digest(tmp_path / "q") == digest(tmp_path / "whole")


def test_norms_with_other_readers_stay(tmp_path: Path) -> None:
    """The router's and the shared experts' norm, and those of the layer that drafts."""
    make_toy(tmp_path / "toy", "deepseek_v3", **DEEPSEEK)
    add_draft(tmp_path / "toy")
    done = run(tmp_path / "toy", tmp_path / "q")
    original = opened(tmp_path / "toy")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "toy", tmp_path / "q"))
    changed = {name for name in before if ("norm" in name or ".gate." in name) and not torch.equal(before[name], after[name])}
    assert changed and changed <= {f"{norm}.weight" for norm in sole_readers(original.architecture, original.config).values()}
    mixtures = {note["algorithm"] for name, note in done.notes.items() if "experts." in name or ".layers.3." in name}
    assert mixtures == {"imatrix"}


def test_distillation_goes_on_from_it(llama: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "awq")
    run(llama, tmp_path / "learned", steps=24)
    assert all(
        torch.equal(a, b) for a, b in zip(norms(tmp_path / "awq").values(), norms(tmp_path / "learned").values(), strict=True)
    )
    assert digest(tmp_path / "awq") != digest(tmp_path / "learned")
    assert kl(llama, tmp_path / "learned") < kl(llama, tmp_path / "awq")


def test_the_scale_follows_the_inputs_that_are_large() -> None:
    make = torch.Generator().manual_seed(3)
    sizes = torch.ones(64)
    sizes[5::32] = 30
    x = torch.randn(2048, 64, generator=make) * sizes
    statistics, weight = gather([(part, None) for part in x.chunk(4)], 4), torch.randn(48, 64, generator=make)
    scale = awq.fold(weight, parse_scheme("int4-g32"), statistics)
    assert (scale[5::32] > 1.5 * scale[:5].max()).all()
    assert torch.isclose(scale.max() * scale.min(), torch.ones(()))
    assert (awq.fold(weight, parse_scheme("int4-g32"), gather([(torch.zeros(64, 64), None)], 1)) == 1).all()


PLUGIN = """
import torch
from deepseek_cli.quantize import rtn
from deepseek_cli.quantize.algorithms import Algorithm

def quantize(weight, scheme, statistics):
    return rtn.quantize(weight, scheme)

def fold(weight, scheme, statistics):
    assert weight.shape[1] == len(statistics.importance)
    if FAILS:
        raise ValueError("no idea")
    return statistics.importance.sqrt().clamp_min(1e-3)

MINE = Algorithm("mine", quantize, "inputs", fold)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    def install(fails: bool) -> None:
        info = tmp_path / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text("[deepseek.algorithms]\nacme = acme_folds:MINE\n", encoding="utf-8")
        (tmp_path / "acme_folds.py").write_text(f"FAILS = {fails}\n{PLUGIN}", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(__import__("sys").modules, "acme_folds", raising=False)

    return install


def test_a_plug_in_folds_too(llama: Path, tmp_path: Path, plugin: Callable[[bool], None]) -> None:
    plugin(False)
    done = run(llama, tmp_path / "q", algorithm="acme", scheme="int8-g32")
    before, after = norms(llama), norms(tmp_path / "q")
    folds = {name for name, note in done.notes.items() if note["algorithm"] == "acme" and "q_proj" in name}
    assert sum(not torch.equal(before[name], after[name]) for name in before) >= len(folds) > 0
    run(llama, tmp_path / "rtn", algorithm="rtn", tokens=None, scheme="int8-g32")
    assert kl(llama, tmp_path / "q") < 0.5 * kl(llama, tmp_path / "rtn") < 0.02


def test_where_it_gives_up_the_norm_stays(llama: Path, tmp_path: Path, plugin: Callable[[bool], None]) -> None:
    plugin(True)
    run(llama, tmp_path / "q", algorithm="acme")
    before, after = norms(llama), norms(tmp_path / "q")
    assert all(torch.equal(before[name], after[name]) for name in before)
