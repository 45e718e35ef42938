"""Experts that stay make good for those that went: each way against plain arithmetic, then all of them on a toy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.compress import experts, fitting, refit
from deepseek_cli.compress.experts import cut, dropped, leaving
from deepseek_cli.compress.fitting import Rows, learned, solved
from deepseek_cli.compress.merge import Expert, absorbed, heirs, merged
from deepseek_cli.compress.mixture import Mixture, parts
from deepseek_cli.compress.plan import Steps
from deepseek_cli.compress.slopes import Seen
from deepseek_cli.compress.trials import Trials, choose_among
from deepseek_cli.compress.write import write
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.ops import GateSpec
from deepseek_cli.ops.torch_experts import choose
from deepseek_cli.quantize.student import divergence
from deepseek_cli.reporter import SILENT
from deepseek_cli.store import Store
from deepseek_cli.tensors import dense
from tests.compress.test_steps import MIXTURE, logits, open_toy
from tests.conftest import Outcome
from tests.toys import make_toy

HIDDEN, WIDTH, TOKENS = 6, 4, 400
GROUPS = {"n_group": 2, "topk_group": 2}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixture(count: int, top_k: int = 2, seed: int = 0) -> Mixture:
    weights = {"m.gate.weight": random(count, HIDDEN, seed=seed)}
    for i, name in enumerate([f"m.experts.{e}" for e in range(count)] + ["m.shared_experts"]):
        gate, up, down = parts(name)
        weights[f"{gate}.weight"] = random(WIDTH, HIDDEN, seed=seed + 3 * i + 1)
        weights[f"{up}.weight"] = random(WIDTH, HIDDEN, seed=seed + 3 * i + 2)
        weights[f"{down}.weight"] = random(HIDDEN, WIDTH, seed=seed + 3 * i + 3)
    return Mixture("m", GateSpec(count, top_k, "sigmoid", renormalize=True), weights)


def rows_for(wanted: Mixture, seed: int = 7) -> Rows:
    x = random(TOKENS, HIDDEN, seed=seed)
    return Rows(x, wanted(x), random(TOKENS, seed=seed + 1).abs() + 0.1)


@pytest.fixture(autouse=True)
def fitted_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """To little text, by few steps."""
    monkeypatch.setattr(experts, "TRIED", 2)
    monkeypatch.setattr(refit, "TOKENS", 2048)
    monkeypatch.setattr(refit, "STEPS", 40)
    monkeypatch.setattr(fitting, "BATCH", 256)


def test_turns_of_least_squares_end_where_all_at_once_would() -> None:
    ours, rows, ridge = mixture(3), rows_for(mixture(3, seed=50)), 0.05
    channels, names = [], []
    for name, seen, values in ours.into_down(rows.inputs):
        channels.append(torch.zeros(TOKENS, WIDTH).index_copy(0, seen, values).double())
        names.append(name)
    counted = [c * rows.counts[:, None].double() for c in channels]
    a, left = torch.cat(counted, 1), ((rows.wanted - ours(rows.inputs)) * rows.counts[:, None]).double()
    penalty = torch.cat([(ridge * (c * c).sum() / WIDTH).expand(WIDTH) for c in counted])
    change = torch.linalg.solve(a.T @ a + penalty.diag(), a.T @ left).T.split(WIDTH, 1)
    found = solved(ours, rows, ridge, sweeps=200)
    for name, wanted in zip(names, change, strict=True):
        assert torch.allclose(found.weights[name] - ours.weights[name], wanted.float(), atol=1e-3)
    assert found.weights["m.gate.weight"] is ours.weights["m.gate.weight"]


def test_descent_comes_closer_and_moves_the_router_too() -> None:
    ours, rows = mixture(3), rows_for(mixture(3, seed=50))
    found = learned(ours, rows, 60)
    assert rows.error(found) < 0.8 * rows.error(ours)
    assert not torch.equal(found.weights["m.gate.weight"], ours.weights["m.gate.weight"])


def test_a_permuted_twin_is_merged_without_a_loss() -> None:
    x, order = random(TOKENS, HIDDEN), torch.tensor([2, 0, 3, 1])
    gate, up, down = random(WIDTH, HIDDEN, seed=1), random(WIDTH, HIDDEN, seed=2), random(HIDDEN, WIDTH, seed=3)
    first = Expert(gate, up, down, x[:, 0].clamp_min(0))
    twin = Expert(gate[order], up[order], down[:, order], (-x[:, 0]).clamp_min(0))
    both = absorbed(first, twin, x)
    wanted = (F.silu(x @ gate.T) * (x @ up.T)) @ down.T * x[:, 0].abs()[:, None]
    given = (F.silu(x @ both.gate.T) * (x @ both.up.T)) @ both.down.T * both.counts[:, None]
    assert both.gate.shape == gate.shape
    assert (given - wanted).norm() < 0.05 * wanted.norm()


def test_channels_of_both_are_picked_nearly_as_well_as_by_trying_all() -> None:
    x = random(TOKENS, HIDDEN)
    a, b = (
        Expert(random(WIDTH, HIDDEN, seed=s), random(WIDTH, HIDDEN, seed=s + 1), random(HIDDEN, WIDTH, seed=s + 2), c)
        for s, c in ((1, x[:, 0].clamp_min(0)), (5, (-x[:, 0]).clamp_min(0)))
    )
    channels = F.silu(x @ torch.cat((a.gate, b.gate)).T) * (x @ torch.cat((a.up, b.up)).T)
    counts = torch.cat([e.counts[:, None].expand(-1, WIDTH) for e in (a, b)], 1)
    wanted, given = ((channels * counts) @ torch.cat((a.down, b.down), 1).T).double(), (channels * x[:, :1].abs()).double()
    errors = []
    for kept in itertools.combinations(range(2 * WIDTH), WIDTH):
        picked = given[:, list(kept)]
        errors.append(float((picked @ torch.linalg.lstsq(picked, wanted).solution - wanted).norm()))
    both = absorbed(a, b, x)
    ours = (F.silu(x @ both.gate.T) * (x @ both.up.T)) @ both.down.T * both.counts[:, None]
    assert min(errors) * 0.999 <= float((ours - wanted).norm()) < torch.tensor(errors).quantile(0.2)


def test_an_expert_is_merged_into_the_one_that_gives_the_same() -> None:
    whole = mixture(4)
    same = {f"{b}.weight": whole.weights[f"{a}.weight"] for a, b in zip(parts("m.experts.3"), parts("m.experts.0"), strict=True)}
    whole, x = whole.having(same), random(TOKENS, HIDDEN)
    assert heirs(whole, [1, 2, 3], whole.counts(x), x) == {0: 3}


def test_tokens_follow_an_expert_into_the_one_it_was_merged_into() -> None:
    whole, x = mixture(4, top_k=1), random(TOKENS, HIDDEN)
    alike = {f"{b}.weight": whole.weights[f"{a}.weight"] for a, b in zip(parts("m.experts.3"), parts("m.experts.0"), strict=True)}
    whole = whole.having({**alike, "m.gate.weight": torch.eye(4, HIDDEN)})
    rest = {name.replace(".3.", ".0.") if ".3." in name else name: w for name, w in whole.weights.items() if ".0." not in name}
    smaller = Mixture("m", replace(whole.spec, experts=3), {**rest, "m.gate.weight": torch.eye(4, HIDDEN)[[3, 1, 2]]})
    joined = merged(whole, smaller, [3, 1, 2], x)
    went = whole.counts(x)[:, 0] > 0
    assert joined.counts(x)[went, 0].gt(0).sum() > smaller.counts(x)[went, 0].gt(0).sum()


def test_the_order_of_leaving_is_that_of_trying_each() -> None:
    spec, wide = GateSpec(5, 2, "softmax"), random(5, 64, seed=1)
    seen = Seen("m", spec, None, torch.empty(64, 0), random(64, 5, seed=2), torch.empty(64, 0))

    def loss(left: list[int]) -> float:
        def output(chosen: Tensor, counts: Tensor) -> Tensor:
            return (wide.T.gather(1, chosen) * counts).sum(1)

        return float((output(*choose_among(left, seen.logits, None, spec)) - output(*choose(seen.logits, None, spec))).norm())

    left, order = list(range(5)), []
    while len(left) > 2:
        rests = {e: loss([other for other in left if other != e]) for e in left}
        order.append(min(rests, key=rests.__getitem__))
        left.remove(order[-1])
    assert leaving(wide, seen) == order + left
    assert leaving(wide, seen, judge=lambda rest: -sum(rest), tried=5) == [0, 1, 2, 3, 4]


def kl(handle: ModelHandle, other: ModelHandle, windows: Tensor) -> float:
    return divergence(logits(handle, windows), logits(other, windows))


def halves(tmp_path: Path) -> tuple[Steps, Mapping[str, list[int]]]:
    """A toy, and an order in which the experts of its two layers could leave."""
    handle = open_toy(tmp_path / "toy", "deepseek_v3", **MIXTURE, n_group=1, topk_group=1)
    kept = {0: [0, 2, 5, 7], 1: [1, 2, 3, 6]}
    ranks = {f"model.layers.{i}.mlp.experts": sorted(range(8), key=ids.__contains__) for i, ids in kept.items()}
    return Steps(handle, "experts=50%", "builtin", tmp_path, SILENT), ranks


def test_what_is_measured_of_experts_that_are_left_is_what_dropping_the_others_does(tmp_path: Path) -> None:
    steps, ranks = halves(tmp_path)
    handle, windows = steps.shape.handle, steps.shape.windows[:2]
    trials = Trials(handle, windows)
    for layer, order in enumerate(ranks.values()):
        trials.go_to(layer)
        found = trials.divergence_with(f"model.layers.{layer}.mlp.gate", order[4:])
    bare, _ = dropped(steps.shape, ranks, "50%")
    each = [kl(handle, bare.handle, window[None]) / len(window) for window in windows]
    assert found == pytest.approx(geometric_mean(each), rel=1e-4)


def test_what_stays_is_closer_than_experts_that_are_only_dropped(tmp_path: Path) -> None:
    steps, ranks = halves(tmp_path)
    handle, window = steps.shape.handle, steps.shape.windows[:1]
    fitted, (bare, _) = cut(steps.shape, ranks, "50%", steps.context), dropped(steps.shape, ranks, "50%")
    write(fitted, handle, (), tmp_path / "small")
    written = open_model(str(tmp_path / "small"), Store(tmp_path))
    assert kl(handle, written, window) < 0.9 * kl(handle, bare.handle, window)
    assert torch.equal(logits(written, window), logits(fitted.handle, window))


def test_a_fit_that_predicts_no_better_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, ranks = halves(tmp_path)
    spoiled = lambda full, start, *_: start.having({n: -w for n, w in start.weights.items()})  # noqa: E731
    monkeypatch.setattr(refit, "closest", spoiled)
    fitted, (bare, _) = cut(steps.shape, ranks, "50%", steps.context), dropped(steps.shape, ranks, "50%")
    name = "model.layers.1.mlp.experts.2.down_proj.weight"
    assert torch.equal(dense(fitted.handle.stored[name].read()), dense(bare.handle.stored[name].read()))


def test_the_result_deploys_and_answers(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", "deepseek_v3", 3, **MIXTURE, **GROUPS)
    assert cli("compress", tmp_path / "toy", "--to-size", "1MB", "--steps", "experts=50%", "-o", "out").code == 0
    assert cli("deploy", "out", "--target", "cpu", "--verify", "logits", "-o", "bundle").code == 0
    assert cli("run", "bundle", "a", "--raw", "--max-tokens", "4").code == 0
