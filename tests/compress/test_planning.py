"""What plans predict, in which order shapes come, and what a report card makes of tokens that are gone."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from deepseek_cli.compress import costs
from deepseek_cli.compress.candidates import Planned
from deepseek_cli.compress.loop import Attempt, expected, improve
from deepseek_cli.compress.plan import Candidate, Steps
from deepseek_cli.compress.quality import OfKept
from deepseek_cli.compress.shape import Context, Shape
from deepseek_cli.compress.spec import CompressSpec
from deepseek_cli.compress.vocabulary import STEP as VOCABULARY
from deepseek_cli.evaluate import HandlePredictor, Text, Windows, compare
from deepseek_cli.handle import open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.sensitivity import Measured
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import SILENT
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from tests.compress.test_steps import open_toy
from tests.toys import DEPLOYABLE


@pytest.fixture
def nano(tmp_path: Path) -> Shape:
    handle = open_model("nano", Store(tmp_path))
    tokenizer = open_tokenizer(handle.root)
    return Shape(handle, tokenizer, torch.tensor([tokenizer.encode("The river bends. " * 200)[:256]]).repeat(4, 1))


@pytest.mark.parametrize("together", [0.05, 0.2])
def test_units_do_together_what_was_measured_and_near_nothing_what_they_do_alone(together: float) -> None:
    known = costs.Costs(plan=None, options=(), fixed_bytes=0, alone=0.1, together=together)  # type: ignore[arg-type]
    assert known.whole(0.1) == pytest.approx(together)
    assert known.whole(1e-6) == pytest.approx(1e-6, rel=1e-4)
    found = [known.whole(i / 10) for i in range(50)]
    assert found == sorted(found)


def test_all_units_at_once_are_measured_as_the_quantized_model_computes(tmp_path: Path) -> None:
    handle, store = open_toy(tmp_path / "toy", "llama", **DEPLOYABLE), Store(tmp_path)
    windows = costs.windows_of(Steps(handle, "", "builtin", tmp_path, SILENT).shape.windows)
    spec, scheme = QuantizeSpec(scheme="int8-g32", algorithm="rtn", report=False), parse_scheme("int8-g32")
    measured = [Measured(unit, scheme, 0.0, {}) for unit in make_plan(handle, QuantizeSpec(scheme="int4")).units]
    quantize(handle, spec, store, tmp_path / "q")
    small = HandlePredictor(open_model(str(tmp_path / "q"), store), windows)
    wanted = compare(HandlePredictor(handle, windows), small, Windows(windows, (Text("", "", len(windows)),)))
    assert costs._divergence(handle, costs._units(handle, measured), windows) == pytest.approx(wanted["kl"], rel=1e-3)


def test_what_was_measured_is_read_again(tmp_path: Path) -> None:
    handle = open_toy(tmp_path / "toy", "llama", **DEPLOYABLE)
    windows = costs.windows_of(Steps(handle, "", "builtin", tmp_path, SILENT).shape.windows)
    known = costs.measure(handle, windows, tmp_path / "costs.json", SILENT)
    assert known and known.together > 0
    assert costs.measure(handle, windows[:0], tmp_path / "costs.json", SILENT) == known
    plain = costs.measure(handle, windows, tmp_path / "costs.json", SILENT, zero_points=False)
    assert plain and ({len(row) for row in plain.options}, {len(row) for row in known.options}) == ({5}, {8})


@pytest.mark.parametrize(("zero_points", "fewest_bits", "count"), [(True, 4, 8), (False, 4, 5), (True, 3, 14), (False, 3, 8)])
def test_few_bits_come_with_zero_points_and_without(zero_points: bool, fewest_bits: int, count: int) -> None:
    found = costs.schemes_for(parse_scheme("int4-g32"), fewest_bits, zero_points)
    assert len(set(found)) == count and {scheme.bits for scheme in found} == {*range(fewest_bits, 5), 8}
    assert {scheme.bits for scheme in found if not scheme.symmetric} == ({*range(fewest_bits, 5)} if zero_points else set())


def test_shapes_of_steps_without_shares_come_from_the_largest_on(tmp_path: Path) -> None:
    handle = open_toy(tmp_path / "toy", "llama", **{**DEPLOYABLE, "num_hidden_layers": 10, "intermediate_size": 256})
    plans = Steps(handle, "width,depth", "builtin", tmp_path, SILENT).plans()
    found = [(name, shape.handle.parameters) for name, shape in plans]
    assert found[0][0] == "depth=10%,width=12.5%" and found[-1][0] == "depth=40%,width=50%"
    assert len(found) == len({name for name, _ in found}) == 16
    assert all(after <= 1.05 * before for (_, before), (_, after) in pairwise(found))


def test_of_tokens_that_are_not_used_a_share_takes_those_learned_last(nano: Shape, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The river bends, and the old bridge bends with it. " * 200)
    context = Context(tmp_path, str(tmp_path / "text.txt"))
    used = VOCABULARY.rank(nano, context)
    small = VOCABULARY.cut(nano, used, "25%", context)
    size = nano.handle.config.vocabulary
    assert small.kept is not None and len(small.kept) == size - round(0.25 * size)
    gone = {*range(size)} - {*small.kept.tolist()}
    assert not any(used[token] for token in gone)
    assert sum(gone) / len(gone) > 0.8 * size  # nano's tokens have the numbers of the order in which they were learned


def test_a_token_that_is_gone_counts_as_the_one_it_begins_with(nano: Shape, tmp_path: Path) -> None:
    context = Context(tmp_path)
    small = VOCABULARY.cut(nano, VOCABULARY.rank(nano, context), "50%", context)
    assert small.kept is not None and small.begins is not None
    kept, begins = small.kept.tolist(), small.begins.tolist()
    assert [begins[token] for token in kept] == list(range(len(kept)))
    words = {text: token for text, token in nano.tokenizer.fast.get_vocab().items() if text.isascii() and text.isalpha()}
    gone = {text: token for text, token in words.items() if token not in set(kept)}
    assert len(gone) > 50
    assert all(begins[token] == small.tokenizer.encode(text)[0] for text, token in gone.items())

    tokens = small.windows[:1]
    judged = OfKept(nano.handle, tokens, small)
    left = judged.logits(0, 0, 64).exp()
    whole = HandlePredictor(nano.handle, small.kept[tokens]).logits(0, 0, 64).softmax(-1)
    assert torch.allclose(left.sum(-1), torch.ones(64), atol=1e-4)
    token = max(gone.values(), key=lambda token: float(whole[:, token].max()))
    place = begins[token]
    alike = [other for other in range(len(begins)) if begins[other] == place]
    assert torch.allclose(left[:, place], whole[:, alike].sum(-1), atol=1e-6)
    assert judged.lost / judged.positions == pytest.approx(float((1 - whole[:, kept].sum(-1)).mean()), abs=1e-5)


def test_a_prediction_goes_by_what_others_near_it_came_to() -> None:
    assert expected(0.1, []) == 0.1
    assert expected(0.1, [(0.1, 0.2)]) == pytest.approx(0.1 * 2**0.5)  # half way: that it is right counts as much
    assert expected(0.1, [(0.1, 0.2), (0.001, 0.0005)]) > expected(0.1, [(0.1, 0.2), (0.1, 0.05)]) == pytest.approx(0.1)
    assert expected(0.1, [(0.1, 0.2)] * 100) == pytest.approx(0.2, rel=0.01)


class Sized:
    """Mixtures of full thousands of bytes, beside ten that the folder holds."""

    beside, shape = 10, SimpleNamespace()

    def mixture(self, budget: int = 2900, level: str = "balanced") -> list[Planned]:
        candidate = Candidate("mixed", "mixed", budget // 1000 * 1000 + self.beside, True, "", level, 0.1)
        return [Planned(candidate, self.shape, SimpleNamespace(), {"schemes": {}}, budget)]  # type: ignore[arg-type]

    def ladder(self) -> list[Planned]:
        return []


def test_a_mixture_above_the_goal_is_made_smaller_and_leaves_its_turn_to_the_levels_behind() -> None:
    spec, goal, made = CompressSpec(to_size=2030, max_kld=0.0), 2030, list[tuple[str, int]]()

    def attempt(planned: Planned) -> Attempt:
        made.append((planned.candidate.level, planned.candidate.size_bytes))
        return Attempt(planned, None, {"kl": 1 / len(made)}, planned.candidate.size_bytes + 40)  # type: ignore[arg-type]

    best, attempts = improve([Sized()], goal, spec, attempt, SILENT, time.monotonic())  # type: ignore[list-item]
    assert made == [("balanced", 2010), ("balanced", 1010), ("best", 1010), ("qat", 1010)]
    assert best is attempts[-1]
