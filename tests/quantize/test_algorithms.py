"""Every way of rounding keeps to the portable grid, and each is as much better than the simpler ones as it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepseek_cli.errors import UsageError
from deepseek_cli.quantize import autoround, gptq, hqq, refine, rtn, search
from deepseek_cli.quantize.algorithms import ALGORITHMS, LEVELS, find_algorithm
from deepseek_cli.quantize.grid import snap
from deepseek_cli.quantize.search import Grid
from deepseek_cli.quantize.statistics import Statistics, gather
from deepseek_cli.schemes import Scheme, parse_scheme
from deepseek_cli.tensors import QuantizedTensor

SCHEMES = [
    "int4-g32",
    "int4-g64",
    "int4-g128",
    "int4-g32-asym",
    "int4-g32-pos",
    "int8-channel",
    "int8-g32",
    "int8-g64-asym",
]
SHAPES = [(7, 176), (1, 64), (5, 32)]  # 176 leaves a short last group in every size
CALIBRATED = [name for name, (_, needs, _) in ALGORITHMS.items() if needs != "nothing"]
Rounding = Callable[[Tensor, Scheme], QuantizedTensor]


def measured(inputs: int, tokens: int = 2048, drift: bool = False) -> Statistics:
    """Of inputs that vary together, some much more than others; with `drift` the original model's lie beside them."""
    make = torch.Generator().manual_seed(inputs)
    mix = torch.randn(inputs, inputs, generator=make) / inputs**0.5 + torch.eye(inputs) * 0.3
    mix *= torch.logspace(-1, 0.5, inputs)[torch.randperm(inputs, generator=make)]
    original = torch.randn(tokens, inputs, generator=make) @ mix
    lost = torch.eye(inputs) + 0.1 * torch.randn(inputs, inputs, generator=make) / inputs**0.5
    halves = zip((original @ lost).chunk(4), original.chunk(4), strict=True)
    return gather([(x, o if drift else None) for x, o in halves], 4)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.05


def rounding(name: str, inputs: int) -> Rounding:
    algorithm = find_algorithm(name)
    if algorithm.needs == "nothing":
        return algorithm.quantize
    statistics = measured(inputs, drift=algorithm.needs == "both")
    return lambda weight, scheme: algorithm.quantize(weight, scheme, statistics)


def refined(weight: Tensor, scheme: Scheme) -> QuantizedTensor:
    return refine.quantize(weight, scheme, measured(weight.shape[1], drift=True))


def every(inputs: int) -> dict[str, Rounding]:
    return {**{name: rounding(name, inputs) for name in ALGORITHMS}, "refine": refined}


def objective(candidate: Tensor, target: Tensor, hessian: Tensor) -> Tensor:
    """(Ŵ − T) H (Ŵ − T)ᵀ of each row, in float64."""
    error = (candidate - target).double()
    return ((error @ hessian.double()) * error).sum(1)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("algorithm", every(32))
def test_results_lie_on_the_portable_grid(algorithm: str, name: str, shape: tuple[int, int]) -> None:
    scheme, weight = parse_scheme(name), normal(*shape)
    round_it = every(shape[1])[algorithm]
    quantized = round_it(weight, scheme)
    group = scheme.group_of(shape[1])
    assert (quantized.shape, quantized.bits, quantized.group) == (shape, scheme.bits, group)
    assert quantized.scale.shape == (shape[0], -(-shape[1] // group))
    assert (quantized.packed.dtype, quantized.scale.dtype) == (torch.uint8, torch.float32)
    assert torch.equal(quantized.scale, snap(quantized.scale, 8 if scheme.symmetric else 7))
    assert torch.equal(quantized.scale, quantized.scale.half().float())
    if scheme.symmetric:
        assert quantized.zero is None
    else:
        assert (
            quantized.zero is not None and quantized.zero.dtype == torch.uint8 and quantized.zero.shape == quantized.scale.shape
        )
        assert int(quantized.zero.max()) < 1 << scheme.bits
    if scheme.positive or not scheme.symmetric:
        assert (quantized.scale > 0).all()
    assert quantized.permutation is None and quantized.offset is None
    off = (quantized.dequantize() - weight).square().mean() / weight.square().mean()
    assert off < (0.2 if scheme.bits == 4 else 0.01)
    again = round_it(weight, scheme)
    assert torch.equal(again.packed, quantized.packed) and torch.equal(again.scale, quantized.scale)


@pytest.mark.parametrize("name", ["int4-g32", "int4-g32-asym", "int4-g64-pos", "int8-channel"])
@pytest.mark.parametrize("algorithm", every(32))
def test_nothing_stays_nothing_and_what_is_not_finite_is_refused(algorithm: str, name: str) -> None:
    scheme, round_it = parse_scheme(name), every(96)[algorithm]
    assert (round_it(torch.zeros(4, 96), scheme).dequantize() == 0).all()
    for bad in (torch.nan, torch.inf):
        weight = normal(4, 96)
        weight[2, 17] = bad
        with pytest.raises(ValueError, match="not finite"):
            round_it(weight, scheme)


@pytest.mark.parametrize("algorithm", every(32))
def test_the_opposite_weight_has_the_same_codes_and_opposite_scales(algorithm: str) -> None:
    round_it, weight, scheme = every(96)[algorithm], normal(16, 96), parse_scheme("int4-g32")
    one, other = round_it(weight, scheme), round_it(-weight, scheme)
    assert torch.equal(one.packed, other.packed) and torch.equal(one.scale, -other.scale)


@pytest.mark.parametrize("name", ["int4-g32", "int4-g64-asym", "int4-g32-pos"])
def test_each_algorithm_costs_less_than_the_simpler_ones(name: str) -> None:
    scheme, weight, statistics = parse_scheme(name), normal(24, 176), measured(176)
    find = {known: rounding(known, 176) for known in ("rtn", "imatrix", "gptq")}
    find["autoround"] = lambda w, s: autoround.quantize(w, s, statistics)
    find["refine"] = lambda w, s: refine.quantize(w, s, statistics)
    cost = {
        known: float(objective(q(weight, scheme).dequantize(), weight, statistics.hessian).sum()) for known, q in find.items()
    }
    assert cost["refine"] < 0.95 * cost["gptq"] and cost["gptq"] < 0.7 * cost["imatrix"]
    assert cost["imatrix"] < 0.95 * cost["rtn"] and cost["autoround"] < 0.963 * cost["imatrix"]


@pytest.mark.parametrize("name", SCHEMES)
def test_searched_scales_never_cost_more_than_the_widest(name: str) -> None:
    scheme, weight, statistics = parse_scheme(name), normal(24, 176), measured(176)
    for importance, counts in ((None, torch.ones(176)), (statistics, statistics.importance)):
        plain, searched = rtn.quantize(weight, scheme), search.quantize(weight, scheme, importance)
        before, after = (objective(q.dequantize(), weight, counts.diag()) for q in (plain, searched))
        assert (after <= before * (1 + (1e-5 if scheme.bits == 4 else 0.02))).all()  # 8 bits: its sums lose as much in float32
        assert after.sum() < (0.97 if scheme.bits == 4 else 1) * before.sum()


@pytest.mark.parametrize("name", SCHEMES)
def test_hqq_lowers_its_own_norm(name: str) -> None:
    scheme, weight = parse_scheme(name), normal(24, 176) ** 3 * 100
    plain, better = (q.quantize(weight, scheme).dequantize() for q in (rtn, hqq))
    before, after = ((w - weight).abs().pow(hqq.POWER).sum(1) for w in (plain, better))
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.995 * before.sum()


def test_shrinking_is_what_spares_the_most_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the scales are those of least squares, which few large errors decide."""
    scheme, weight = parse_scheme("int4-g128"), normal(64, 256) ** 3 * 100
    norm = lambda: float((hqq.quantize(weight, scheme).dequantize() - weight).abs().pow(hqq.POWER).sum())  # noqa: E731
    ours = norm()
    monkeypatch.setattr(hqq, "shrink", lambda error, beta: torch.zeros_like(error))
    assert ours < 0.997 * norm()


def test_towards_the_original_model_is_closer_to_its_outputs() -> None:
    scheme, weight, statistics = parse_scheme("int4-g32"), normal(64, 128), measured(128, tokens=8192, drift=True)
    alone = Statistics(statistics.hessian, statistics.held_out, statistics.tokens)
    ours, theirs = (statistics.error(weight, gptq.quantize(weight, scheme, s).dequantize()) for s in (statistics, alone))
    assert ours < 0.9 * theirs


@pytest.mark.parametrize("algorithm", ["search", "hqq", "gptaq", "autoround", "refine"])
def test_threads_share_the_rows(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    round_it, weight, scheme = every(96)[algorithm], normal(41, 96), parse_scheme("int4-g64-asym")
    alone = round_it(weight, scheme)
    for module in (search, hqq, autoround):
        monkeypatch.setattr(module, "CACHED_VALUES", 1024)
    try:
        torch.set_num_threads(3)
        shared = round_it(weight, scheme)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(shared.packed, alone.packed) and torch.equal(shared.scale, alone.scale)
    assert shared.zero is not None and alone.zero is not None and torch.equal(shared.zero, alone.zero)


# --- GPTQ


def plain_gptq(weight: Tensor, grid: Grid, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """As OBQ (arXiv 2208.11580) has it: after each column the rest moves, the inverse shrinks. Codes, and how clear they were."""
    h = hessian.double() + gptq.DAMPING * hessian.double().diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    inverse, w = torch.linalg.inv(h), weight.double().clone()
    middle = torch.full_like(grid.scale, 8) if grid.zero is None else grid.zero.float()
    codes, margin = torch.zeros(w.shape, dtype=torch.uint8), torch.zeros(w.shape)
    for j in hessian.diagonal().argsort(descending=True, stable=True).tolist():
        scale, zero = grid.scale[:, j // grid.group].double(), middle[:, j // grid.group].double()
        exact = w[:, j] / scale + zero
        code = exact.round().clamp(0, 15)
        codes[:, j], margin[:, j] = code.to(torch.uint8), 0.5 - (exact - exact.round()).abs()
        w -= torch.outer((w[:, j] - (code - zero) * scale) / inverse[j, j], inverse[j])
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j, :] = inverse[:, j] = 0
    return codes, margin


@pytest.mark.parametrize("name", ["int4-g32", "int4-g32-asym", "int4-g64-pos"])
def test_gptq_is_what_its_paper_says(name: str) -> None:
    weight, statistics = normal(40, 176), measured(176)
    quantized = gptq.quantize(weight, parse_scheme(name), statistics)
    grid = Grid(quantized.scale, quantized.zero, parse_scheme(name), quantized.group)
    codes, margin = plain_gptq(weight, grid, statistics.hessian)
    order = statistics.hessian.diagonal().argsort(descending=True, stable=True)
    same = (codes == quantized.codes)[:, order]
    first = same.float().argmin(1)  # where a row first differs, it was a toss-up; what comes after follows from that
    parted = ~same.all(1)
    assert (margin[:, order].gather(1, first[:, None])[parted] < 1e-4).all()
    assert parted.sum() <= 2


@pytest.mark.parametrize("algorithm", [*CALIBRATED, "refine"])
def test_inputs_that_say_little_are_enough(algorithm: str) -> None:
    x = torch.zeros(12, 96)
    x[:, :40] = torch.randn(12, 40, generator=torch.Generator().manual_seed(2))
    few = gather([(x, x * 1.01)], 1)
    round_it = refine.quantize if algorithm == "refine" else find_algorithm(algorithm).quantize
    weight, scheme = normal(16, 96), parse_scheme("int4-g32")
    plain = objective(search.quantize(weight, scheme).dequantize(), weight, few.hessian).sum()
    quantized = round_it(weight, scheme, few).dequantize()
    assert objective(quantized, gptq.with_drift(weight, few), few.hessian).sum() < plain
    assert ((quantized - weight)[:, 64:].square().mean() / weight.square().mean()) < 0.02  # those nobody measured

    silent = Statistics(torch.zeros(96, 96), torch.zeros(4, 96), 12)
    assert torch.equal(round_it(weight, scheme, silent).dequantize(), search.quantize(weight, scheme, silent).dequantize())


def test_a_hessian_that_is_none_is_refused() -> None:
    broken = Statistics(torch.full((32, 32), torch.nan), torch.zeros(1, 32), 1)
    for upper in (
        lambda h: gptq.inverse_factor(h, torch.arange(32)),
        lambda h: gptq.round_columns(normal(2, 32), search.find_grid(normal(2, 32), Scheme(4, 32)), h),
    ):
        with pytest.raises(ValueError, match="no factor"):
            upper(broken.hessian)
    with pytest.raises(ValueError, match="no factor"):
        gptq.inverse_factor(-torch.eye(8), torch.arange(8))


def test_a_factor_is_that_of_the_inverse_in_order() -> None:
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(4))
    hessian = x.T @ x / 64
    before = hessian.clone()
    upper = gptq.inverse_factor(hessian, order)
    assert torch.equal(hessian, before)
    assert torch.equal(upper, upper.triu())
    exact = torch.linalg.inv(gptq.damped(hessian)[order][:, order])
    assert torch.allclose(upper.T @ upper, exact, rtol=1e-9, atol=1e-9)


def test_a_factor_takes_the_place_of_its_matrix() -> None:
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(3))
    hessian = x.T @ x
    for matrix in (hessian.clone(), hessian.clone().mT):
        for upper in (False, True):
            work = matrix.clone(memory_format=torch.preserve_format)
            factor, failed = gptq.cholesky(work, upper=upper)
            assert not failed
            assert factor.data_ptr() == work.data_ptr()
            assert torch.allclose(factor, torch.linalg.cholesky(hessian, upper=upper), atol=1e-4)


# --- Refining


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("algorithm", ["rtn", "imatrix", "gptq", "autoround"])
def test_refining_never_raises_the_error(algorithm: str, name: str) -> None:
    weight, statistics = normal(24, 176), measured(176)
    start = rounding(algorithm, 176)(weight, parse_scheme(name))
    before = objective(start.dequantize(), weight, statistics.hessian)
    assert refine.refine(weight, start, statistics.hessian, 0).packed.equal(start.packed)
    for sweeps in (1, 3):
        better = refine.refine(weight, start, statistics.hessian, sweeps)
        after = objective(better.dequantize(), weight, statistics.hessian)
        assert (after <= before * (1 + 1e-5)).all()
        assert after.sum() < 0.97 * before.sum()
        assert (better.zero is None) == (start.zero is None) and (better.zero is None or better.zero.equal(start.zero))
        before = after


def test_sweeps_end_where_no_single_code_can_be_better() -> None:
    weight, hessian = normal(6, 80), measured(80).hessian
    start = search.quantize(weight, parse_scheme("int4-g32"))
    spread = start.scale.T[torch.arange(80) // 32]
    q, low = start.codes.T.float() - 8, torch.full((80, 6), -8.0)
    free = torch.zeros(1, 1, dtype=torch.bool)
    for _ in range(50):
        refine.descend(q, hessian @ (q * spread - weight.T), hessian, spread, (low, low + 15), free)
    least = objective((q * spread).T, weight, hessian)
    for j in range(80):
        for code in range(-8, 8):
            other = q.clone()
            other[j] = code
            assert (objective((other * spread).T, weight, hessian) >= least * (1 - 1e-5)).all()


@pytest.mark.parametrize("name", ["int4-g32", "int4-g32-asym", "int4-g128-pos"])
def test_scales_are_those_of_least_squares(name: str) -> None:
    scheme, weight, statistics = parse_scheme(name), normal(6, 176), measured(176)
    start = rtn.quantize(weight, scheme)
    low = -(torch.full_like(start.scale, 1 << (scheme.bits - 1)) if start.zero is None else start.zero.float())
    groups = torch.arange(176) // start.group
    q = start.codes.T + low.T[groups]
    slope = statistics.hessian @ (q * start.scale.T[groups] - weight.T)
    found = refine.refit(q, start.scale.T, slope, statistics.hessian, start.group, bits=8 if scheme.symmetric else 7)
    factor = torch.linalg.cholesky(statistics.hessian.double(), upper=True)  # FᵀF = H, so the error is ‖F (Ŵ − T)ᵀ‖²
    for row in range(6):
        columns = torch.stack([factor @ (q[:, row] * (groups == g)).double() for g in range(len(found))], 1)
        aim = factor @ weight[row].double()
        best = torch.linalg.lstsq(columns, aim).solution
        error = lambda scale: float((columns @ scale.double() - aim).square().sum())  # noqa: B023, E731
        assert error(best) <= error(found[:, row]) < error(start.scale[row])
        assert error(found[:, row]) - error(best) < 0.1 * (error(start.scale[row]) - error(best))


# --- The registry


def test_every_level_names_an_algorithm() -> None:
    for level in LEVELS.values():
        assert callable(find_algorithm(level.algorithm).quantize)


def test_the_registry_says_what_each_algorithm_needs() -> None:
    for name, (_, needs, _) in ALGORITHMS.items():
        assert (find_algorithm(name).name, find_algorithm(name).needs) == (name, needs)


class Warnings(list):
    def warn(self, message: str, **facts: object) -> None:
        self.append(message.format(**facts))


def test_a_package_can_bring_an_algorithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "acme_rounding-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-rounding\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[deepseek.algorithms]\nacme = acme_rounding:halves\nplain = acme_rounding:plain\ngone = acme_rounding:missing\n", "utf-8"
    )
    (tmp_path / "acme_rounding.py").write_text(
        "from deepseek_cli.quantize import rtn\n\n\n"
        "def halves(weight, scheme, statistics=None):\n    return rtn.quantize(weight / 2, scheme)\n\n\n"
        "def plain(weight, scheme, statistics):\n    return rtn.quantize(weight, scheme)\n\n\n"
        "halves.needs = 'nothing'\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    acme, weight = find_algorithm("acme"), normal(4, 64)
    assert (acme.name, acme.needs, find_algorithm("plain").needs) == ("acme", "nothing", "inputs")
    assert torch.equal(acme.quantize(weight, Scheme(4, 32)).scale * 2, rtn.quantize(weight, Scheme(4, 32)).scale)

    warnings = Warnings()
    with pytest.raises(UsageError, match="gone"):
        find_algorithm("gone", warnings)  # type: ignore[arg-type]
    assert len(warnings) == 1 and "acme-rounding 1.0" in warnings[0]
    with pytest.raises(UsageError, match="There is no algorithm named 'magic'"):
        find_algorithm("magic")
