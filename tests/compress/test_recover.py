"""What is left of a toy learns from the whole toy; a run that is stopped goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from deepseek_cli.compress import recover
from deepseek_cli.compress.plan import Steps
from deepseek_cli.compress.shape import Shape
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize import distill
from deepseek_cli.quantize.student import divergence
from deepseek_cli.reporter import SILENT, Reporter, Silent
from deepseek_cli.tensors import dense
from tests.compress.test_steps import MIXTURE, logits, open_toy


class Stopped(Exception):
    pass


@dataclass(frozen=True)
class StoppedAfter(Silent):
    steps: int = 0

    def progress(self, step: str, done: int, total: int, unit: str = "") -> None:
        if step == "distill" and done > self.steps:
            raise Stopped


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "MOST_STEPS", 12)
    monkeypatch.setattr(recover, "TOKENS", 1024)
    monkeypatch.setattr(distill, "SAVE_SECONDS", 0.0)


def smaller(handle: ModelHandle, steps: str, folder: Path, reporter: Reporter = SILENT) -> Shape:
    ((_, shape),) = Steps(handle, steps, "builtin", folder, reporter, folder / "work").plans()
    return shape


def values(shape: Shape) -> dict[str, torch.Tensor]:
    return {name: dense(ref.read()) for name, ref in shape.handle.stored.items()}


def test_half_the_experts_learn_what_all_of_them_predicted(tmp_path: Path) -> None:
    handle = open_toy(tmp_path / "toy", "deepseek_v3", **MIXTURE, n_group=2, topk_group=2)
    cut = smaller(handle, "experts=50%", tmp_path / "a")
    learned = smaller(handle, "experts=50%,recover=1h", tmp_path / "a")
    wanted = logits(handle, cut.windows)
    before, after = (divergence(wanted, logits(shape.handle, cut.windows))[2] for shape in (cut, learned))
    assert after < 0.9 * before


def test_a_run_that_is_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    handle = open_toy(tmp_path / "toy", "deepseek_v3", **MIXTURE, n_group=2, topk_group=2)
    whole = values(smaller(handle, "experts=50%,recover=1h", tmp_path / "a"))
    with pytest.raises(Stopped):
        values(smaller(handle, "experts=50%,recover=1h", tmp_path / "b", StoppedAfter(steps=5)))
    assert [f.name for f in (tmp_path / "b/work").glob("recover-*/learned-*")] == ["learned-000005"]
    resumed = values(smaller(handle, "experts=50%,recover=1h", tmp_path / "b"))
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


def test_a_time_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="recover=soon"):
        recover.parse_time("soon")
