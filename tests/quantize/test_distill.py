"""Scales that learn from the original: predictions come closer, and the result is what it would be without a stop."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deepseek_cli import memory
from deepseek_cli.errors import MemoryShort, UsageError
from deepseek_cli.evaluate import cut_windows, evaluate_handle
from deepseek_cli.handle import open_model
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.quantize import algorithms, distill, rtn
from deepseek_cli.quantize.algorithms import Level
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.quantize.fake import FakeQuantized
from deepseek_cli.quantize.grid import snap
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.quantize.student import Student, last_hidden
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor, dense
from tests.fp8_toys import DEEPSEEK
from tests.quantize.killed import killed
from tests.toys import DEPLOYABLE, make_toy

TOKENS = 4096
STEPS = 24
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    make_toy(tmp_path / "toy", **DEPLOYABLE)
    return tmp_path / "toy"


@pytest.fixture
def deepseek(tmp_path: Path) -> Path:
    make_toy(tmp_path / "toy", "deepseek_v3", **DEEPSEEK)
    return tmp_path / "toy"


def run(model: Path | str, out: Path, **options: Any) -> Quantized:
    store = Store(out.parent)
    spec = QuantizeSpec(**{"level": "fast", "tokens": TOKENS, "steps": STEPS, "report": False, **options})
    return quantize(open_model(str(model), store), spec, store, out)


def kl(model: Path | str, folder: Path) -> float:
    """On text that is no part of the calibration text."""
    store = Store(folder.parent)
    original = open_model(str(model), store)
    windows = cut_windows(open_tokenizer(original.root), most=4)
    return float(evaluate_handle(original, open_model(str(folder), store), windows)["kl"])  # type: ignore[arg-type]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def assert_portable(folder: Path) -> None:
    for ref in open_model(str(folder), Store(folder.parent)).tensors.values():
        weight = ref.read()
        if isinstance(weight, QuantizedTensor):
            assert torch.equal(snap(weight.scale, bits=8 if weight.zero is None else 7), weight.scale), ref.name


@pytest.mark.parametrize(("family", "settings"), [("llama", DEPLOYABLE), ("deepseek_v3", DEEPSEEK)], ids=["llama", "deepseek"])
def test_predictions_come_closer_and_scales_stay_portable(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    make_toy(tmp_path / "toy", family, **settings)
    run(tmp_path / "toy", tmp_path / "before", steps=0, level="best")
    run(tmp_path / "toy", tmp_path / "after", steps=2 * STEPS, level="best")
    assert kl(tmp_path / "toy", tmp_path / "after") < 0.99 * kl(tmp_path / "toy", tmp_path / "before")
    assert_portable(tmp_path / "after")


def test_eight_bits_learn_too(llama: Path, tmp_path: Path) -> None:
    """They lose so little that bfloat16 products, in which they learn, can hide it: then the codes stay as they were."""
    run(llama, tmp_path / "before", int8=True, level="balanced", qat=True, steps=0)
    done = run(llama, tmp_path / "after", int8=True, level="balanced", qat=True)
    assert done.name == "toy@int8-g32-qat"
    assert kl(llama, tmp_path / "after") <= 1.01 * kl(llama, tmp_path / "before") < 0.01
    assert_portable(tmp_path / "after")


def test_the_model_that_comes_along_comes_closer(tmp_path: Path) -> None:
    """Over so much text; with a quarter of it and half of the steps, bfloat16's rounding decides whether anything is gained."""
    run("nano", tmp_path / "before", steps=0, tokens=4 * TOKENS)
    run("nano", tmp_path / "after", steps=16, tokens=4 * TOKENS)
    assert kl("nano", tmp_path / "after") < 0.97 * kl("nano", tmp_path / "before")


def test_the_same_twice_or_with_a_stop_between_is_the_same_to_the_bit(llama: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "a")
    run(llama, tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    for steps in (3, 7):  # killed in so many more
        killed(llama, tmp_path / "q", steps, "distill", level="fast", tokens=TOKENS, steps=STEPS)
    assert [f.name for f in (tmp_path / "q.work").glob("learned-*")] == ["learned-000008"]
    run(llama, tmp_path / "q")
    assert digest(tmp_path / "q") == digest(tmp_path / "a")
    assert not (tmp_path / "q.work").exists()


def test_what_does_not_help_is_left_out(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(llama, tmp_path / "before", steps=0)
    monkeypatch.setitem(algorithms.LEVELS, "fast", Level("imatrix", TOKENS, STEPS, 0.5))
    run(llama, tmp_path / "after")
    assert digest(tmp_path / "after") == digest(tmp_path / "before")


def test_what_does_not_fit_is_refused_before_any_work(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_cap", memory.resident_bytes() + 100_000)
    with pytest.raises(MemoryShort, match="Distilling toy needs") as caught:
        run(llama, tmp_path / "q")
    assert "--set steps=0" in str(caught.value)
    assert not (tmp_path / "q.work").exists()


@pytest.mark.parametrize("options", [{"qat": True, "level": "fast"}, {"steps": -1}], ids=str)
def test_options_that_do_not_go_together(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        QuantizeSpec(**options)


def test_an_algorithm_without_text_does_not_learn(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--qat is for algorithms that look at text, and rtn needs none"):
        run(llama, tmp_path / "q", level="balanced", algorithm="rtn", qat=True, tokens=None, steps=None)


def student_of(model: Path, scheme: str = "int4-g32") -> tuple[Student, dict[str, Tensor], Tensor]:
    """With its original's weights, in the operators' order, and some windows of text."""
    handle = open_model(str(model), Store(model.parent))
    codes = {
        name: rtn.quantize(ref.read(), parse_scheme(scheme))
        for name, ref in handle.tensors.items()
        if name.endswith("_proj.weight") and "kv_b" not in name
    }
    refs = {name: distill.replace(handle.tensors[name], read=lambda q=q: q) for name, q in codes.items()}
    tokens = torch.randint(0, 272, (2, 64), generator=torch.Generator().manual_seed(0))
    student = Student(handle, refs, torch.float32)
    assert all(torch.equal(student.export(name).packed, q.packed) for name, q in codes.items())
    return student, {name: dense(ref.read()).float() for name, ref in handle.weights.items()}, tokens


def test_gradients_are_those_of_the_whole_model_at_once(deepseek: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, weights, tokens = student_of(deepseek)
    handle = open_model(str(deepseek), Store(deepseek.parent))
    original = last_hidden(handle, tokens, torch.float32)
    theirs = {**weights, **{name: w.dense(torch.float32).requires_grad_() for name, w in student.learning.items()}}
    logits = []
    for ops in (TorchOps(weights), TorchOps(theirs)):
        x = student.arch.embed(ops, student.config, tokens)
        for block in range(student.config.layers):
            x = student.arch.block(ops, student.config, x, block)
        logits.append(student.arch.head(ops, student.config, student.arch.norm(ops, student.config, x)).flatten(0, 1))
    loss = torch.nn.functional.kl_div(
        logits[1].log_softmax(-1), logits[0].detach().log_softmax(-1), log_target=True, reduction="batchmean"
    )
    loss.backward()
    ours: dict[int, Tensor] = {}
    monkeypatch.setattr(FakeQuantized, "learn", lambda self, gradient, rate: ours.update({id(self): gradient}))
    assert student.step(tokens, original, 1e-3) == pytest.approx(loss.item(), rel=1e-4)
    met = {name: theirs[name].grad for name in student.learning if theirs[name].grad is not None}
    assert len(ours) == len(met) > 40
    for name, expected in met.items():
        assert expected is not None
        torch.testing.assert_close(ours[id(student.learning[name])], expected, rtol=1e-3, atol=1e-7, msg=name)


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-g64", "int4-g32-asym", "int4-g32-pos", "int8-channel", "int8-g64-asym"])
def test_a_weight_starts_as_it_was_quantized_and_moves_down_its_gradient(scheme: str) -> None:
    make = torch.Generator().manual_seed(0)
    original, aim = torch.randn(24, 96, generator=make), torch.randn(24, 96, generator=make)
    quantized = rtn.quantize(original, parse_scheme(scheme))
    weight = FakeQuantized(quantized)
    assert torch.equal(weight.dense(torch.float32), quantized.dequantize())
    before = float((weight.dense(torch.float32) - aim).square().sum())
    for _ in range(50):
        weight.learn(weight.dense(torch.float32) - aim, 5e-3)
    learned = weight.export()
    assert float((learned.dequantize() - aim).square().sum()) < 0.95 * before
    assert torch.equal(learned.packed, quantized.packed)
    assert torch.equal(learned.dequantize(), weight.dense(torch.float32))
    assert torch.equal(snap(learned.scale, bits=8 if learned.zero is None else 7), learned.scale)
    assert bool((learned.scale.sign() == quantized.scale.sign()).all())


def test_a_step_whose_graphs_are_kept_changes_the_same_bits(llama: Path) -> None:
    """How much memory is free may be another where a run goes on that was stopped."""
    learned = []
    for keeps_graphs in (False, True):
        student, _, tokens = student_of(llama)
        student.keeps_graphs = keeps_graphs
        original = last_hidden(open_model(str(llama), Store(llama.parent)), tokens, torch.float32)
        losses = [student.step(tokens, original, 1e-3) for _ in range(2)]
        learned.append((losses, {name: weight.factor for name, weight in student.learning.items()}))
    (before, first), (after, second) = learned
    assert before == after and before[0] > 0
    assert all(torch.equal(first[name], second[name]) and first[name].any() for name in first)
