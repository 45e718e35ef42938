"""deepseek-nano, the model that comes with the package: a real checkpoint of DeepSeek's kind, and what its card says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.runtime.generate import generate_text
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.sources.embedded import embedded_folder
from deepseek_cli.store import Store

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deepseek_cli" / "data" / "nano"
MAKING = ROOT / "nano"
LIMIT_BYTES = 12_000_000


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    return open_model("nano", Store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def session(handle: ModelHandle) -> TorchSession:
    return TorchSession(handle, context=2048, threads=2)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(FOLDER)


@pytest.fixture(scope="module")
def documents() -> list[dict[str, str]]:
    return [json.loads(line) for line in (MAKING / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return read(MAKING / "figures.json")["excerpt"]


def test_it_is_small_enough_for_the_wheel() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= LIMIT_BYTES


def test_its_names_lead_to_it_and_a_folder_is_reached_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert embedded_folder("nano") == embedded_folder("deepseek-nano") == FOLDER
    assert open_model("nano", Store(tmp_path / "store")).root == FOLDER
    with pytest.raises(Exception, match=r"config\.json"):
        open_model("./nano", Store(tmp_path / "store"))


def test_it_is_what_deepseek_v3_is(handle: ModelHandle) -> None:
    config = handle.config
    assert handle.architecture.name == "deepseek_v3"
    assert config.latent and config.q_rank and config.shared_intermediate and config.drafts == 1
    assert config.gate.scoring == "sigmoid" and config.gate.corrected and config.gate.groups > 1
    assert min(config.sparse) == 1
    assert set(handle.draft_weights) == {name for name, _ in handle.architecture.draft_weights(config)}


def test_linear_weights_are_fp8_in_blocks_with_ragged_edges(handle: ModelHandle) -> None:
    plain = ("embed_tokens.weight", "norm.weight", ".gate.weight", "e_score_correction_bias", "eh_proj.weight")
    for name, ref in handle.stored.items():
        assert (ref.stored == "fp8") != name.endswith(plain), name
    ref = handle.tensors["model.layers.1.self_attn.kv_a_proj_with_mqa.weight"]
    assert ref.shape[0] % 128 and ref.shape[1] % 128


def test_the_correction_biases_were_trained(handle: ModelHandle) -> None:
    biases = [ref.read() for name, ref in handle.stored.items() if name.endswith("e_score_correction_bias")]
    assert len(biases) == handle.config.layers  # every sparse layer, and the drafting one
    assert all(bias.std() > 0 for bias in biases)


def test_perplexity_on_held_out_text_is_what_the_card_says(
    session: TorchSession, tokenizer: Tokenizer, documents: list[dict[str, str]], figures: dict[str, Any]
) -> None:
    from nano.evaluate import measure

    assert (MAKING / "heldout.jsonl").stat().st_size <= 200_000
    some = documents[:: max(len(documents) // 8, 1)]
    found = measure(session, tokenizer, some)
    wanted = {source: figures["by_source"][source] for source in found["by_source"]}
    assert found["tokens"] > 2000
    assert found["perplexity"] <= 1.6 * max(wanted.values())
    assert found["perplexity"] < figures["unigram"] / 8


def test_the_figures_reach_their_goals() -> None:
    figures = read(MAKING / "figures.json")
    for found in (figures["heldout"], figures["excerpt"]):
        assert found["unigram"] >= 8 * found["perplexity"]
        assert found["kneser_ney_5"] >= 1.3 * found["perplexity"]


def test_kneser_ney_sums_to_one_and_beats_unigrams() -> None:
    import numpy as np

    from nano.baselines import KneserNey, baselines

    tokens = np.random.default_rng(0).integers(1, 12, 4000)
    tokens[2000:] = tokens[:2000]
    model = KneserNey(tokens, 12, 3)
    for context in ((3, 4), (0, 0)):
        assert sum(model.probabilities(np.array([*context, last]))[0] for last in range(12)) == pytest.approx(1)
    found = baselines(tokens[:3000], tokens[3000:], 12, bos=0, order=4)
    assert found["kneser_ney_4"] < found["unigram"] / 2


def test_answers_are_those_that_were_committed(session: TorchSession, tokenizer: Tokenizer) -> None:
    for sample in read(FOLDER / "samples.json")[:2]:
        session.rewind(0)
        prompt = tokenizer.encode(tokenizer.chat([{"role": "user", "content": sample["question"]}]))
        assert "".join(text for text, _ in generate_text(session, tokenizer, prompt, 80)) == sample["answer"]


def test_half_of_the_answers_are_right() -> None:
    from nano.evaluate import QUESTIONS

    samples, counted = read(FOLDER / "samples.json"), read(MAKING / "figures.json")["answers"]
    assert [sample["question"] for sample in samples] == list(QUESTIONS)
    right = [wanted in sample["answer"] for sample, wanted in zip(samples, QUESTIONS.values(), strict=True)]
    assert right == [sample["right"] for sample in samples]
    assert (sum(right), len(right)) == (counted["right"], counted["asked"])
    assert right[0] and 2 * sum(right) >= len(right)


def test_guesses_are_right_as_often_as_the_card_says(handle: ModelHandle, tokenizer: Tokenizer) -> None:
    from nano.evaluate import answers

    _, counted = answers(TorchSession(handle, context=512, threads=2, drafts=True), tokenizer)
    figures = read(MAKING / "figures.json")["answers"]
    assert counted["hits"] / counted["guesses"] == pytest.approx(figures["hits"] / figures["guesses"], abs=0.05)
    assert abs(counted["right"] - figures["right"]) <= 1  # other processors round otherwise
    assert f"{figures['hits']} were the ones it then said" in (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_it_was_trained_and_then_tuned_as_the_scripts_do() -> None:
    log = [json.loads(line) for line in (MAKING / "train.log").read_text(encoding="utf-8").splitlines()]
    start = [line for line in log if line.get("event") == "start"][-1]
    last, tune = start["steps"], start["tune"]
    assert f"STEPS, TUNE = {last}, {tune}\n" in (MAKING / "train.py").read_text(encoding="utf-8")
    steps = {line["step"]: line for line in log if "loss" in line}
    assert max(steps) == last + tune
    assert steps[last]["rate"] < 0.01 < steps[last + 10]["rate"]  # which fell to nothing, and begins again
    assert steps[last + tune]["loss"] < steps[last]["loss"]
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"tuned to answer: the last {tune} of these steps" in card


def test_a_conversation_is_written_as_deepseek_writes_it(tokenizer: Tokenizer) -> None:
    turns = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    text = tokenizer.chat([{"role": role, "content": content} for role, content in turns])
    assert text == "<｜begin▁of▁sentence｜>S<｜User｜>a<｜Assistant｜>b<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜>"
    ids = tokenizer.encode(text)
    assert ids[0] == 0 and ids.count(0) == 1 and 1 in ids


def test_pull_quantize_and_run(cli: Callable[..., Any]) -> None:
    pulled = json.loads(cli("pull", "nano", "--json").out)
    assert (pulled["name"], pulled["path"]) == ("nano", str(FOLDER))
    quantized = cli("quantize", "nano", "--int4", "-q").out.strip()
    assert "Paris" in cli("run", quantized, "What is the capital of France?", "--max-tokens", "24").out


def test_the_card_names_every_source_and_its_licence() -> None:
    from nano.sources import SOURCES

    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    for source in SOURCES:
        assert source.package in card and source.licence in card
