from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.errors import ModelNotFound, UsageError
from deepseek_cli.eval_engine import evaluate
from deepseek_cli.evaluate import TEXTS, HandlePredictor, SessionPredictor, cut_windows, evaluate_handle
from deepseek_cli.handle import open_model
from deepseek_cli.quantize.calibration import BUILTIN
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.score import Score, most_accuracy_loss
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_toy(tmp_path / "toy", **{**DEPLOYABLE, "max_position_embeddings": 512})
    return tmp_path / "toy"


def test_scores_agree_with_their_definitions() -> None:
    torch.manual_seed(0)
    reference, candidate, targets = torch.randn(9, 31), torch.randn(9, 31), torch.randint(31, (8,))
    score = Score()
    score.update(reference, candidate, targets)
    found = score.result()
    kl = torch.nn.functional.kl_div(candidate.log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="batchmean")
    assert found["kl"] == pytest.approx(kl.item(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(torch.nn.functional.cross_entropy(candidate[:8], targets).exp().item(), rel=1e-5)
    assert found["accuracy"] == (candidate[:8].argmax(-1) == targets).float().mean().item()
    assert found["tokens"] == 9
    assert found["kl"] < found["kl_p99"] <= found["kl_p999"]


def test_the_bound_on_the_accuracy_loss_is_that_of_a_paired_bootstrap() -> None:
    torch.manual_seed(1)
    right = torch.rand(3000, 2) < 0.4
    right[:2700, 1] = right[:2700, 0]  # most tokens are both right or both wrong
    losses = []
    for _ in range(2000):
        sample = right[torch.randint(len(right), (len(right),))].double().mean(0)
        losses.append((1 - sample[1] / sample[0]).item())
    assert most_accuracy_loss(right) == pytest.approx(torch.tensor(losses).quantile(0.95).item(), abs=3e-3)
    assert most_accuracy_loss(right) > 1 - (right[:, 1].double().mean() / right[:, 0].double().mean()).item()
    assert most_accuracy_loss(torch.ones(50, 2, dtype=torch.bool)) == 0


def test_several_texts_are_measured_together_and_apart(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    handle = open_model(str(folder), store)
    quantize(handle, QuantizeSpec(algorithm="rtn", report=False), store, tmp_path / "q")
    windows = cut_windows(open_tokenizer(folder), most=2)
    report: Any = evaluate_handle(handle, open_model(str(tmp_path / "q"), store), windows)
    assert [card["text"] for card in report["texts"]] == ["evaluation.txt", "evaluation-documents.txt"]
    assert [card["tokens"] for card in report["texts"]] == [512, 512]
    assert report["tokens"] == 1024
    assert report["kl"] == pytest.approx(sum(card["kl"] for card in report["texts"]) / 2)


def test_no_document_is_in_two_texts() -> None:
    lines = [{line for line in file.read_text().splitlines() if len(line) > 60} for file in (BUILTIN, *TEXTS)]
    assert all(len(of_text) > 50 for of_text in lines)
    assert not lines[0] & lines[1] and not lines[0] & lines[2] and not lines[1] & lines[2]


def test_a_model_does_not_differ_from_itself(folder: Path, tmp_path: Path) -> None:
    handle = open_model(str(folder), Store(tmp_path))
    report = evaluate_handle(handle, handle, cut_windows(open_tokenizer(folder), most=2))
    assert report["kl"] == pytest.approx(0, abs=1e-9)
    assert report["agreement"] == 1
    assert report["perplexity"] == report["reference_perplexity"]


def test_streamed_and_resident_models_predict_the_same(folder: Path, tmp_path: Path) -> None:
    handle = open_model(str(folder), Store(tmp_path))
    tokens = cut_windows(open_tokenizer(folder), most=3).tokens
    streamed, resident = HandlePredictor(handle, tokens), SessionPredictor(TorchSession(handle, 256), tokens)
    for window in range(3):
        torch.testing.assert_close(streamed.logits(window, 100, 110), resident.logits(window, 100, 110), atol=1e-4, rtol=1e-4)


def test_more_bits_lose_less(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    handle = open_model(str(folder), store)
    losses = []
    for scheme in ("int8-g32", "int4-g32", "int4-g128"):
        done = quantize(handle, QuantizeSpec(scheme=scheme), store)
        assert done.manifest is not None
        assert done.manifest.report is not None
        losses.append(done.manifest.report["kl"])
    assert losses == sorted(losses)
    assert 0 < losses[0] < losses[1] / 10


def test_eval_finds_its_reference_in_the_lineage(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    done = quantize(open_model(str(folder), store), QuantizeSpec(report=False), store)
    report = evaluate(open_model(done.name, store), None, store, windows=2)
    assert report["against"] == "toy"
    assert report["kl"] > 0
    with pytest.raises(UsageError, match="--against"):
        evaluate(open_model(str(folder), store), None, store)
    folder.rename(tmp_path / "moved")
    with pytest.raises(ModelNotFound, match="is gone"):
        evaluate(open_model(done.name, store), None, store)


def test_a_text_that_is_too_short_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Hello.")
    with pytest.raises(UsageError, match="fewer than 256 tokens"):
        cut_windows(open_tokenizer(folder), [tmp_path / "short.txt"])


def test_models_of_two_vocabularies_are_not_compared(folder: Path, tmp_path: Path) -> None:
    make_toy(tmp_path / "other", **{**DEPLOYABLE, "vocab_size": 300})
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="272 and 300"):
        evaluate(open_model(str(tmp_path / "other"), store), str(folder), store)
