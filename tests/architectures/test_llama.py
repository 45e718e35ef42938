"""Llama, Qwen2 and Qwen3 in the PyTorch interpreter against transformers, on random configs with every branch on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deepseek_cli.handle import open_model
from deepseek_cli.ops.cost import count
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from tests.toys import make_toy, random_settings

NEW = 64


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_logits_and_greedy_tokens_agree_with_transformers(tmp_path: Path, family: str, seed: int) -> None:
    oracle = make_toy(tmp_path, family, seed, tokenizer=False, **random_settings(family, seed))
    handle = open_model(str(tmp_path), Store(tmp_path))
    session = TorchSession(handle, context=128, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(3, handle.config.vocabulary, (1, 40), generator=generator)
    with torch.inference_mode():
        wanted = oracle(prompt).logits[0]
        found = torch.from_numpy(session.feed(prompt[0].tolist(), keep=0))
        assert (found - wanted).abs().max() <= 1e-4 * (wanted.max() - wanted.min())
    session.rewind(0)
    tokens = greedy(session, prompt[0].tolist(), NEW)
    with torch.inference_mode():  # one pass over our tokens shows what greedy decoding would have picked at each of them
        picked = oracle(torch.cat((prompt, torch.tensor([tokens])), dim=1)).logits[0, 39:-1].argmax(-1)
    assert picked.tolist() == tokens


def greedy(session: TorchSession, prompt: list[int], most: int) -> list[int]:
    tokens = [int(session.feed(prompt)[-1].argmax())]
    while len(tokens) < most:
        tokens.append(int(session.feed(tokens[-1:])[-1].argmax()))
    return tokens


def test_one_token_at_a_time_gives_the_logits_of_a_whole_prefill(tmp_path: Path) -> None:
    make_toy(tmp_path, "qwen3", 3, tokenizer=False, **random_settings("qwen3", 3))
    session = TorchSession(open_model(str(tmp_path), Store(tmp_path)), context=32)
    tokens = list(range(3, 19))
    whole = session.feed(tokens, keep=0).copy()
    session.rewind(0)
    single = np.concatenate([session.feed([token]) for token in tokens])
    np.testing.assert_allclose(single, whole, atol=1e-4)


def test_cost_counts_parameters_and_cache_as_they_are(tmp_path: Path) -> None:
    oracle = make_toy(tmp_path, "llama", 1, tokenizer=False, **random_settings("llama", 1))
    handle = open_model(str(tmp_path), Store(tmp_path))
    session = TorchSession(handle, context=16)
    session.feed([3, 4, 5])
    cost = count(handle.architecture, handle.config)
    assert handle.parameters == oracle.num_parameters()
    assert cost.kv_values_per_token * 3 * 4 == session.kv_bytes
