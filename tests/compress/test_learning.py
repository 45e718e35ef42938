"""Weights that learn, against PyTorch's own optimizer and the whole model's graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.compress import learning
from deepseek_cli.compress.learning import Adam, Adapted, Whole, begin, rms, state_bytes
from deepseek_cli.compress.teach import Apprentice, PlainOps
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.quantize.fake import DECAYS
from deepseek_cli.quantize.student import last_hidden
from tests.compress.test_steps import MIXTURE, open_toy

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_steps_are_those_of_pytorch_s_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "CHUNK", 7)
    theirs = drawn(5, 6).requires_grad_()
    ours = Adam(theirs.detach().clone())
    optimizer = torch.optim.Adam([theirs], lr=0.03, betas=DECAYS, eps=1e-20)
    for seed in range(5):
        theirs.grad = drawn(5, 6, seed=seed)
        ours.step(theirs.grad, 0.03)
        optimizer.step()
    torch.testing.assert_close(ours.value, theirs.detach())


@pytest.mark.parametrize("rank", [None, 4])
def test_a_weight_starts_as_it_was_and_comes_closer_to_its_aim(rank: int | None) -> None:
    weight, aim = drawn(24, 96), drawn(24, 96) + 0.3 * drawn(24, 1, seed=1) @ drawn(1, 96, seed=2)
    learner, kept = begin("w", weight, rank), weight.clone()
    assert torch.equal(learner.value, weight)
    for _ in range(100):
        learner.learn(learner.dense(torch.float32) - aim, 0.01)
    assert (learner.value - aim).norm() < 0.5 * (weight - aim).norm()
    assert torch.equal(weight, kept)


@pytest.mark.parametrize("rank", [None, 4])
def test_what_was_pruned_stays_zero(rank: int | None) -> None:
    weight = drawn(24, 96)
    weight[:, ::2] = 0
    learner = begin("w", weight, rank)
    for _ in range(5):
        learner.learn(drawn(24, 96, seed=7), 0.01)
    assert not learner.value[:, ::2].any() and (learner.value[:, 1::2] != weight[:, 1::2]).any()


def test_an_adapter_s_gradients_are_those_of_its_product() -> None:
    weight, gradient = drawn(8, 12), drawn(8, 12, seed=1)
    adapter = Adapted(weight, 2, 0)
    adapter.up.value.copy_(drawn(8, 2, seed=2))
    met: list[Tensor] = []
    adapter.up.step = adapter.down.step = lambda slope, rate: met.append(slope)  # type: ignore[method-assign]
    up, down = (adam.value.clone().requires_grad_() for adam in (adapter.up, adapter.down))
    wanted = torch.autograd.grad(weight + adapter.scale * up @ down, (up, down), gradient)
    adapter.learn(gradient, 0.1)
    for ours, theirs in zip(met, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_adapter_holds_less_and_small_weights_learn_as_a_whole() -> None:
    adapter, whole = begin("w", drawn(64, 64), 4), begin("w", drawn(64, 64), None)
    size = lambda learner: sum(part.nbytes for part in learner.parts.values() if part.numel() > 1)  # noqa: E731
    assert (size(adapter), size(whole)) == (state_bytes((64, 64), 4), state_bytes((64, 64), None)) == (6144, 49152)
    assert isinstance(begin("norm", drawn(64), 4), Whole)
    assert isinstance(begin("gate", drawn(4, 64), 4), Whole)


def test_adapters_of_one_name_start_alike_and_of_two_names_do_not() -> None:
    first, again, other = (begin(name, drawn(64, 64), 4) for name in ("a", "a", "b"))
    assert torch.equal(first.parts["down.value"], again.parts["down.value"])
    assert not torch.equal(first.parts["down.value"], other.parts["down.value"])


@pytest.mark.parametrize("keeps_graphs", [False, True])
def test_states_within_pull_as_the_whole_model_s_graph_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps_graphs: bool
) -> None:
    handle = open_toy(tmp_path, "deepseek_v3", **MIXTURE, n_group=2, topk_group=2)
    tokens = torch.randint(0, 200, (2, 32), generator=torch.Generator().manual_seed(0))
    learned = {n: ref for n, ref in handle.weights.items() if "layers.0" in n and n.endswith("down_proj.weight")}
    student = Apprentice(handle, learned, torch.float32, None)
    student.keeps_graphs = keeps_graphs
    aim, original = drawn(2, 32, handle.config.hidden), last_hidden(handle, tokens, torch.float32)

    weights: dict[str, Any] = {name: ref.read().float() for name, ref in handle.weights.items()}
    weights |= {name: weights[name].clone().requires_grad_() for name in learned}
    arch, ops = handle.architecture, TorchOps(weights)
    state = arch.block(ops, handle.config, arch.embed(ops, handle.config, tokens), 0)
    scaled = F.rms_norm(state, state.shape[-1:], eps=0.0) - F.rms_norm(aim, aim.shape[-1:], eps=0.0)
    loss = scaled.square().mean()
    loss.backward()

    met: dict[int, Tensor] = {}
    monkeypatch.setattr(Whole, "learn", lambda self, gradient, rate: met.update({id(self): gradient}))
    assert student.step(tokens, original, 0.1, {1: aim}, 1.0) == pytest.approx(loss.item(), rel=1e-4)  # predictions agree yet
    for name in learned:
        if weights[name].grad is not None:
            torch.testing.assert_close(met[id(student.learning[name])], weights[name].grad, rtol=1e-3, atol=1e-7)
    assert len(met) > 4


def test_attention_as_plain_products_is_the_same() -> None:
    q, k, v = drawn(2, 6, 16, 8), drawn(2, 2, 16, 8, seed=1), drawn(2, 2, 16, 8, seed=2)
    spec = SimpleNamespace(heads=6, kv_heads=2, scale=0.3)
    plain, fused = (ops({}).attend(q, k, v, 0, spec) for ops in (PlainOps, TorchOps))  # type: ignore[arg-type]
    torch.testing.assert_close(plain, fused)


def test_a_weight_s_size_is_its_root_mean_square() -> None:
    assert rms(torch.tensor([[3.0, 4.0]])) == pytest.approx(12.5**0.5)
