"""KV caches narrower than float32: verified like others, as small as they say, and rounded no more than their scales allow."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.kv_scales import LARGEST, kv_scales
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle, open_any, open_model
from deepseek_cli.ops import SparseSpec
from deepseek_cli.profile.estimate import kv_bytes
from deepseek_cli.profile.sketch import sketch_of
from deepseek_cli.runtime.session import open_session
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy

PROMPT = list(range(3, 60))
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    folder = tmp_path_factory.mktemp("model")
    make_toy(folder / "toy", "qwen3", **DEPLOYABLE)
    return open_model(str(folder / "toy"), Store(folder))


@pytest.fixture(scope="module", params=list(BYTES))
def bundle(request: pytest.FixtureRequest, handle: ModelHandle, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bundle")
    done = deploy(handle, DeploySpec(verify="tokens", kv=request.param), Store(folder), folder / "bundle", threads=1)
    return request.param, done, open_any(str(folder / "bundle"), Store(folder))


def test_it_is_verified_to_its_tokens(bundle: Any) -> None:
    kv, done, _ = bundle
    assert done.verification["level"] == "L3"
    assert ("onnxruntime-genai" in done.manifest.readers) == (kv == "fp32")  # which keeps the cache in the activations' type


def test_it_takes_as_many_bytes_as_it_says(handle: ModelHandle, bundle: Any) -> None:
    kv, _, opened = bundle
    session, config = open_session(opened, threads=1), handle.config
    session.feed(PROMPT)
    assert session.kv_bytes == 2 * config.layers * config.kv_heads * config.head_dim * len(PROMPT) * BYTES[kv]
    assert session.kv_bytes == kv_bytes(sketch_of(opened), kv) * len(PROMPT)


def test_what_is_cached_is_what_pytorch_caches(handle: ModelHandle, bundle: Any) -> None:
    kv, _, opened = bundle
    session: Any = open_session(opened, threads=1)
    session.feed(PROMPT)
    reference = TorchSession(handle, len(PROMPT), 1, device="cpu")
    reference.feed(PROMPT)
    scales = kv_scales(handle) if kv == "int8" else None
    exact = [row[0, :, : len(PROMPT)] for row in reference.cache.rows[0]]  # of the first layer, whose inputs are exact
    for kind, expected in enumerate(exact):
        found = torch.from_numpy(session.cache[0, kind, 0, :, : len(PROMPT)].astype(np.float32))
        if scales is None:
            torch.testing.assert_close(found, expected, rtol=2e-3 if kv == "fp16" else 1e-4, atol=1e-4)
            continue
        scale = scales[0][kind][:, None]
        cut = expected.clamp(-(LARGEST + 1) * scale, LARGEST * scale)
        assert ((found * scale - cut).abs() <= 0.51 * scale + 1e-6).all()


def test_pages_are_chosen_among_float32_keys_only(bundle: Any) -> None:
    kv, _, opened = bundle
    choose = partial(open_session, opened, threads=1, sparse=SparseSpec.parse("tokens=64"))
    if kv == "fp32":
        assert choose().feed(PROMPT).shape[0] == 1
        return
    with pytest.raises(UsageError, match="--kv fp16 or int8"):
        choose()


def test_a_keys_pair_shares_one_scale(handle: ModelHandle) -> None:
    """Its position turns one channel into the other."""
    keys, values = kv_scales(handle)[0]
    half = handle.config.head_dim // 2
    assert torch.equal(keys[:, :half], keys[:, half:])
    assert (values > 0).all()


def test_latents_are_not_rounded_to_int8(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="caches latents"):
        deploy(open_model("nano", store), DeploySpec(kv="int8"), store, tmp_path / "bundle")
