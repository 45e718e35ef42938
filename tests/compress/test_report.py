"""What is measured of a result beside its divergence: answers, and accuracy over a long text."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.compress import accuracy
from deepseek_cli.compress.accuracy import accuracy_gate, long_windows, predicted
from deepseek_cli.compress.sanity import Sanity, answers, compare_answers, distinct_share, goes_round, warn
from deepseek_cli.compress.shape import Shape
from deepseek_cli.evaluate import TEXTS, WINDOW, evaluate_handle
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize.calibration import BUILTIN
from deepseek_cli.reporter import SILENT, Silent
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from deepseek_cli.score import accuracy_losses
from deepseek_cli.store import Store
from deepseek_cli.tensors import dense
from tests.toys import byte_tokenizer


@dataclasses.dataclass(frozen=True)
class Heard(Silent):
    said: list[str] = dataclasses.field(default_factory=list)

    def warn(self, message: str, **facts: object) -> None:
        self.said.append(message.format(**facts))


@pytest.fixture
def nano(tmp_path: Path) -> ModelHandle:
    return open_model("nano", Store(tmp_path))


def changed(handle: ModelHandle, name: str, change: Any) -> ModelHandle:
    ref = handle.tensors[name]
    return dataclasses.replace(
        handle,
        tensors={**handle.tensors, name: dataclasses.replace(ref, stored="f32", read=lambda: change(dense(ref.read()).float()))},
    )


@pytest.mark.parametrize(
    ("tokens", "round"),
    [
        ([*range(48)], False),
        ([*range(36), *[7] * 12], True),
        ([*range(40), *[7] * 8], False),  # a row of dots is no circle
        ([*range(30), *[1, 2, 3, 4, 5] * 3], True),
        ([*[1, 2, 3, 4, 5] * 3, *range(30)], False),  # it came out of it
        ([1, 2, 3] * 3, False),
    ],
)
def test_an_end_that_says_the_same_again_and_again_goes_round(tokens: list[int], round: bool) -> None:
    assert goes_round(tokens) is round


def test_distinct_runs_are_counted() -> None:
    assert distinct_share([1, 2, 3, 4, 1, 2, 3, 4]) == 4 / 5
    assert distinct_share([1, 2]) == 1.0


def test_a_model_without_its_final_norm_degenerates_and_that_is_said(nano: ModelHandle) -> None:
    heard = Heard()
    stuck = changed(nano, "model.norm.weight", lambda w: torch.zeros_like(w))  # the first token, for ever
    found = compare_answers(nano, stuck, heard)
    assert found["original"] == {"answers": 5, "end": 5, "repeat": 0, "distinct": 1.0, "special": 0, "round_trip": 5}
    assert (found["result"]["end"], found["result"]["repeat"]) == (0, 5)
    assert found["samples"][0]["original"] == "The capital of France is Paris."
    assert heard.said[:2] == [
        "5 of 5 answers repeat themselves, and 0 of the original's.",
        "0 of 5 answers come to an end, and 5 of the original's.",
    ]


def test_what_the_original_does_too_is_not_the_small_models_fault() -> None:
    heard, same = Heard(), Sanity(5, 0, 5, 0.1, 2, 4)
    warn(same, same, heard)
    assert heard.said == []
    warn(same, dataclasses.replace(same, special=3, round_trip=3), heard)
    assert len(heard.said) == 2


def test_a_template_that_fails_leaves_answers_uncompared(nano: ModelHandle, tmp_path: Path) -> None:
    folder = shutil.copytree(nano.root, tmp_path / "broken")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}", encoding="utf-8")
    broken = open_model(str(folder), Store(tmp_path))
    assert "template" in compare_answers(broken, broken, SILENT)["unmeasured"]


def test_answers_end_where_the_context_does(nano: ModelHandle) -> None:
    short = dataclasses.replace(nano, config=dataclasses.replace(nano.config, context=8))
    assert [a.ends for a in answers(short, SILENT)] == [False] * 5


def whole(handle: ModelHandle) -> Shape:
    return Shape(handle, open_tokenizer(handle.root), torch.empty(0, 0, dtype=torch.long))


def test_the_gate_measures_what_the_report_card_would(nano: ModelHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "WANTED", 1000)
    monkeypatch.setattr(accuracy, "PART", 3)
    other = changed(nano, "model.layers.1.mlp.shared_experts.down_proj.weight", lambda w: 0.3 * w)
    found = accuracy_gate(nano, other, whole(nano), TEXTS, 1.0, tmp_path, SILENT)
    card: Any = evaluate_handle(nano, other, long_windows(open_tokenizer(nano.root), TEXTS))
    assert found["tokens"] == found["of_tokens"] == 2 * 4 * 255
    assert (found["accuracy"], found["reference_accuracy"]) == (card["accuracy"], card["reference_accuracy"])
    assert found["accuracy_loss_most"] == card["accuracy_loss_most"]
    files = {file: file.read_bytes() for file in tmp_path.glob("accuracy-*")}
    assert accuracy_gate(nano, other, whole(nano), TEXTS, 1.0, tmp_path, SILENT) == found
    assert len(files) == 3 and all(file.read_bytes() == content for file, content in files.items())


def test_a_long_text_gives_a_hundred_thousand_tokens_to_predict() -> None:
    tokenizer = Tokenizer(byte_tokenizer(), None, None, frozenset(), "")
    assert 100_000 <= predicted(long_windows(tokenizer, [BUILTIN])) < 100_000 + WINDOW


def test_a_loss_that_is_surely_too_great_ends_the_measurement(
    nano: ModelHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "PART", 4)
    stuck = changed(nano, "model.norm.weight", lambda w: torch.zeros_like(w))
    found = accuracy_gate(nano, stuck, whole(nano), TEXTS, 0.01, tmp_path, SILENT)
    assert found["tokens"] == 4 * 255 < found["of_tokens"]
    assert 0.01 < found["accuracy_loss_least"] <= found["accuracy_loss"] <= found["accuracy_loss_most"]
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("accuracy")] == ["accuracy-0"]


def test_more_tokens_bring_the_bounds_together() -> None:
    right = torch.rand(100_000, 2, generator=torch.Generator().manual_seed(0)) < 0.4
    right[:90_000, 1] = right[:90_000, 0]
    few, many = accuracy_losses(right[::25]), accuracy_losses(right)
    assert many[1] - many[0] < 0.3 * (few[1] - few[0])
    truth = 1 - (right[:, 1].double().mean() / right[:, 0].double().mean()).item()
    assert many[0] < truth < many[1]
