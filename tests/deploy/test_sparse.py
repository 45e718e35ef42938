"""Sparse attention in bundles, beside the PyTorch interpreter's, which chooses the same pages, and beside dense attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import Bundle, ModelHandle, open_any, open_model
from deepseek_cli.ops import SparseSpec
from deepseek_cli.ops.onnx_ops import emit
from deepseek_cli.runtime.onnx_session import OnnxSession
from deepseek_cli.runtime.session import Session, open_session
from deepseek_cli.runtime.sparse_session import SparseSession
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from tests.deploy.test_cpu import model
from tests.toys import DEPLOYABLE, make_toy, random_deepseek_settings

CONTEXT, PROMPT, MOST = 400, 200, 96
TOKENS = np.random.default_rng(0).integers(3, 60, CONTEXT).tolist()
EXACT = 0  # accuracy level: activations are not rounded
TOYS: dict[str, dict[str, Any]] = {
    "llama": DEPLOYABLE,
    "qwen2": DEPLOYABLE | {"num_key_value_heads": 4},
    "qwen3": DEPLOYABLE | {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 48},
    "deepseek_v2": random_deepseek_settings("deepseek_v2", 1),
    "deepseek_v3": random_deepseek_settings("deepseek_v3", 2),
}


def toy(folder: Path, family: str, **options: Any) -> ModelHandle:
    """A toy whose graph lies in its own folder."""
    make_toy(folder, family, **TOYS[family] | {"max_position_embeddings": CONTEXT})
    handle = open_model(str(folder), Store(folder))
    emit(handle.architecture, handle.config, handle.weights, folder / "model.onnx", CONTEXT, **options)
    return handle


@pytest.fixture(scope="module", params=TOYS)
def handle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    return toy(tmp_path_factory.mktemp("toy"), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    return toy(tmp_path_factory.mktemp("toy"), "llama")


def sparse(handle: ModelHandle, most: int = MOST, context: int = CONTEXT) -> SparseSession:
    return SparseSession(handle.root, handle.config, context, 1, EXACT, most=most)


def one_by_one(session: Session, tokens: list[int]) -> np.ndarray:
    return np.array([session.feed([token])[0].copy() for token in tokens])


def by_torch(handle: ModelHandle, prompt: list[int], tokens: list[int], most: int = MOST) -> np.ndarray:
    """Logits of each token behind a prompt that attends to all keys, as bundles' prompts do."""
    session = TorchSession(handle, CONTEXT, 1, device="cpu", sparse=SparseSpec(most))
    for token in prompt:
        session.sparse = SparseSpec(CONTEXT)
        session.feed([token])
    session.sparse = SparseSpec(most)
    return one_by_one(session, tokens)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest, of the range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.mark.parametrize("most", [64, MOST, 103])  # the last is rounded down to whole pages
def test_the_pages_are_those_that_pytorch_chooses(handle: ModelHandle, most: int) -> None:
    prompt, tokens = TOKENS[:PROMPT], TOKENS[PROMPT : PROMPT + 50]  # over three borders of pages
    session, dense = sparse(handle, most), OnnxSession(handle.root, handle.config, CONTEXT, 1, EXACT)
    session.feed(prompt)
    dense.feed(prompt)
    expected = by_torch(handle, prompt, tokens, most)
    assert difference(one_by_one(session, tokens), expected) < 1e-3
    assert difference(one_by_one(dense, tokens), expected) > 1e-2  # so the choice matters


def test_up_to_so_many_keys_nothing_is_left_out(handle: ModelHandle) -> None:
    tokens = TOKENS[:MOST]
    session, dense = sparse(handle), OnnxSession(handle.root, handle.config, CONTEXT, 1, EXACT)
    assert np.array_equal(one_by_one(session, tokens), one_by_one(dense, tokens))
    assert session.attended.pairs == session.attended.of


@pytest.mark.parametrize("back", [240, PROMPT, 170, 128, 97, 5])
def test_a_session_that_was_cut_back_is_like_a_new_one(handle: ModelHandle, back: int) -> None:
    other = TOKENS[::-1]
    used, fresh = sparse(handle), sparse(handle)
    used.feed(TOKENS[:PROMPT])
    one_by_one(used, TOKENS[PROMPT : PROMPT + 60])
    used.rewind(back)
    fresh.feed(TOKENS[: min(back, PROMPT)])
    one_by_one(fresh, TOKENS[PROMPT:back])
    found = []
    for session in (used, fresh):
        session.feed(other[: 250 - back])
        found.append(one_by_one(session, other[250:300]))
    assert used.known == fresh.known
    assert difference(*found) < 1e-5


def test_bounds_are_those_of_the_cache(llama: ModelHandle) -> None:
    session = sparse(llama)
    session.feed(TOKENS[:PROMPT])
    one_by_one(session, TOKENS[PROMPT : PROMPT + 40])
    assert session.known == (PROMPT + 39) // 16 - 1
    keys = session.cache[:, 0, 0, :, : 16 * session.known].reshape(2, 2, session.known, 16, 16)
    mean, radius = np.split(session.bounds[:, :, : session.known], 2, axis=-1)
    assert np.allclose(mean, keys.mean(3), atol=1e-6)
    assert np.allclose(radius, 0.25 * (keys.max(3) - keys.min(3)) / 2, atol=1e-6)
    assert (session.bounds[:, :, session.known :, 16:] < -1e29).all()
    assert session.kv_bytes == session.cache[..., : session.position, :].nbytes + mean.nbytes + radius.nbytes
    assert session.attended.mean < session.attended.dense


def test_the_context_may_end_within_a_page(llama: ModelHandle) -> None:
    prompt, tokens = TOKENS[:120], TOKENS[120:151]
    session = sparse(llama, 64, context=151)
    session.feed(prompt)
    assert difference(one_by_one(session, tokens), by_torch(llama, prompt, tokens, 64)) < 1e-3
    with pytest.raises(UsageError, match="do not fit"):
        session.feed([5])


def test_fp16_latents_are_chosen_and_attended_to_as_they_are_kept(tmp_path: Path) -> None:
    handle = toy(tmp_path, "deepseek_v3", kv="fp16")
    prompt, tokens = TOKENS[:PROMPT], TOKENS[PROMPT : PROMPT + 20]
    session = SparseSession(handle.root, handle.config, CONTEXT, 1, most=MOST)
    session.feed(prompt)
    assert difference(one_by_one(session, tokens), by_torch(handle, prompt, tokens)) < 1e-2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("built")
    deploy(model(folder), DeploySpec(verify="structure"), Store(folder), folder / "bundle", threads=1)
    opened = open_any(str(folder / "bundle"), Store(folder))
    assert isinstance(opened, Bundle)
    return opened


def test_a_bundle_is_opened_with_sparse_attention(bundle: Bundle) -> None:
    session = open_session(bundle, threads=1, sparse=SparseSpec.parse("tokens=64,heads=1"))
    assert isinstance(session, SparseSession)
    session.feed(TOKENS[:PROMPT])
    one_by_one(session, TOKENS[PROMPT : PROMPT + 20])
    assert isinstance(open_session(bundle, threads=1, sparse=SparseSpec()), OnnxSession)


def test_a_bundle_computes_all_its_heads(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"every head.*tokens=N"):
        open_session(bundle, sparse=SparseSpec.parse("tokens=64,heads=0.5"))


def test_latents_cached_as_keys_and_values_are_refused_by_name(tmp_path: Path) -> None:
    make_toy(tmp_path, "deepseek_v3", **TOYS["deepseek_v3"] | {"qk_rope_head_dim": 8, "kv_lora_rank": 24})
    handle = open_model(str(tmp_path), Store(tmp_path))
    emit(handle.architecture, handle.config, handle.weights, tmp_path / "model.onnx", CONTEXT, latent_cache="gqa")
    with pytest.raises(UsageError, match="latent_cache=gqa"):
        sparse(handle)
