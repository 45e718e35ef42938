"""The head, and an embedding that is tied to it, are rounded by what comes out of the last norm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.evaluate import cut_windows, evaluate_handle
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize import rounding, search
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.quantize.student import Student, last_hidden
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from deepseek_cli.tensors import dense
from tests.toys import DEPLOYABLE, make_toy

SCHEME = "int4-g32"


def run(model: Path | str, out: Path, **options: Any) -> Quantized:
    store = Store(out.parent)
    spec = QuantizeSpec(**{"tokens": 4096, "report": False, "scheme": SCHEME, "embeddings": SCHEME, **options})
    return quantize(open_model(str(model), store), spec, store, out)


def toy(folder: Path, tied: bool) -> Path:
    make_toy(folder / "toy", **{**DEPLOYABLE, "tie_word_embeddings": tied})
    return folder / "toy"


def head_of(folder: Path | str, tied: bool) -> torch.Tensor:
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    return dense(open_model(str(folder), Store(Path(folder).parent)).tensors[name].read())


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("algorithm", ["imatrix", "awq", "gptq", "gptaq", "refine", "autoround"])
def test_every_algorithm_meets_it(tmp_path: Path, tied: bool, algorithm: str) -> None:
    done = run(toy(tmp_path, tied), tmp_path / "q", algorithm=algorithm)
    note = done.notes["model.embed_tokens.weight" if tied else "lm_head.weight"]
    assert note["algorithm"] in (algorithm, "imatrix")
    assert note["gain"] <= 1
    assert ("model.embed_tokens.weight" in done.notes) == tied  # what is only looked up has no inputs


def test_one_that_is_corrected_by_a_low_rank(tmp_path: Path) -> None:
    done = run(toy(tmp_path, tied=False), tmp_path / "q", rule=("lm_head=int4-g32-r4",))
    plain = run(tmp_path / "toy", tmp_path / "plain")
    assert done.notes["lm_head.weight"]["gain"] < plain.notes["lm_head.weight"]["gain"]


def test_eight_bits_are_rounded_by_themselves(tmp_path: Path) -> None:
    done = run(toy(tmp_path, tied=True), tmp_path / "q", embeddings="int8")
    assert "model.embed_tokens.weight" not in done.notes


def test_a_long_one_is_rounded_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(toy(tmp_path, tied=False), tmp_path / "whole", algorithm="imatrix")
    rows, inputs = head_of(tmp_path / "toy", tied=False).shape
    monkeypatch.setattr(rounding, "TOGETHER", rows // 3 * inputs)
    calls, whole = list[int](), rounding.round_batch

    def counted(batch: Any, statistics: Any) -> Any:
        calls.append(batch.items[0].shape[0])
        return whole(batch, statistics)

    monkeypatch.setattr(rounding, "round_batch", counted)
    run(tmp_path / "toy", tmp_path / "pieces", algorithm="imatrix")
    assert sum(calls[-4:]) == rows and max(calls[-4:]) == rows // 3
    assert torch.equal(head_of(tmp_path / "whole", tied=False), head_of(tmp_path / "pieces", tied=False))


def measured(original: ModelHandle, small: ModelHandle) -> float:
    return float(str(evaluate_handle(original, small, cut_windows(open_tokenizer(original.root), most=4))["kl"]))


def test_the_head_of_a_trained_model_loses_less_than_by_itself(tmp_path: Path) -> None:
    store, name = Store(tmp_path), "model.embed_tokens.weight"  # tied
    nano = open_model("nano", store)
    quantize(nano, QuantizeSpec(scheme=SCHEME, embeddings=SCHEME, report=False), store, tmp_path / "q")
    by_text = dense(open_model(str(tmp_path / "q"), store).tensors[name].read())
    by_itself = search.quantize(dense(nano.tensors[name].read()), parse_scheme(SCHEME, 32)).dequantize()
    losses = [measured(nano, with_head(nano, name, head)) for head in (by_text, by_itself)]
    assert losses[0] < 0.8 * losses[1]


def with_head(model: ModelHandle, name: str, head: torch.Tensor) -> ModelHandle:
    ref = replace(model.tensors[name], read=lambda: head)
    return replace(model, tensors={**model.tensors, name: ref})


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_learns_predicts_by_the_rounded_head(tmp_path: Path, tied: bool) -> None:
    run(toy(tmp_path, tied), tmp_path / "q")
    store = Store(tmp_path)
    original, small = open_model(str(tmp_path / "toy"), store), open_model(str(tmp_path / "q"), store)
    windows = cut_windows(open_tokenizer(original.root), most=4).tokens
    codes = {name: ref for name, ref in small.tensors.items() if ref.quantized}
    score = Student(original, codes, torch.float32).score(windows, last_hidden(original, windows, torch.float32))
    assert score == pytest.approx(measured(original, small), rel=1e-3)
