from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from deepseek_cli.errors import ModelCorrupt, UsageError
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.ops.onnx_ops import emit
from deepseek_cli.runtime import onnx_session, torch_session
from deepseek_cli.runtime.onnx_session import OnnxSession, reserve
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy

TOKENS = [5, 9, 17, 33, 65, 129, 250, 2, 7, 11]
CONTEXT = 64


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    folder = tmp_path_factory.mktemp("toy")
    make_toy(folder, "qwen3", **DEPLOYABLE)
    handle = open_model(str(folder), Store(folder))
    emit(handle.architecture, handle.config, handle.weights, folder / "model.onnx", CONTEXT)
    return handle


def session(handle: ModelHandle, context: int = CONTEXT, **options: Any) -> OnnxSession:
    return OnnxSession(handle.root, handle.config, context, 1, **options)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, atol=1e-4))


def test_one_token_at_a_time_gives_what_all_at_once_give(handle: ModelHandle) -> None:
    whole = session(handle).feed(TOKENS, keep=0)
    one = session(handle)
    assert close(np.concatenate([one.feed([token]).copy() for token in TOKENS]), whole)
    assert one.position == len(TOKENS)


@pytest.mark.parametrize("keep", [0, 1, 2, 5, 7, 10, 99])
def test_kept_positions_may_span_chunks(handle: ModelHandle, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = session(handle).feed(TOKENS, keep=0)
    monkeypatch.setattr(onnx_session, "CHUNK", 4)
    assert close(session(handle).feed(TOKENS, keep=keep), whole[-keep:])


@pytest.mark.parametrize("keep", [0, 1, 3, 9])
def test_kept_positions_may_span_chunks_in_pytorch_too(handle: ModelHandle, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TorchSession(handle, CONTEXT, 1, device="cpu").feed(TOKENS, keep=0)
    monkeypatch.setattr(torch_session, "CHUNK", 3)  # the last chunk is a single token
    assert close(TorchSession(handle, CONTEXT, 1, device="cpu").feed(TOKENS, keep=keep), whole[-keep:])


def test_rewinding_forgets_what_was_behind(handle: ModelHandle) -> None:
    s = session(handle)
    wanted = s.feed(TOKENS, keep=0)[-1:].copy()
    s.rewind(3)
    s.feed([1, 2, 3])
    s.rewind(3)
    assert s.position == 3
    assert close(s.feed(TOKENS[3:]), wanted)


def test_keys_and_values_are_appended_in_place(handle: ModelHandle) -> None:
    s = session(handle)
    s.feed(TOKENS)
    used, free = s.cache[..., : len(TOKENS), :], s.cache[..., len(TOKENS) :, :]
    assert np.abs(used).min(axis=-1).max() > 0
    assert not free.any()
    assert s.kv_bytes == used.nbytes


def test_more_tokens_than_the_context_are_refused_before_anything_runs(handle: ModelHandle) -> None:
    s = session(handle, context=8)
    with pytest.raises(UsageError, match="10 tokens do not fit in a context of 8"):
        s.feed(TOKENS)
    assert s.position == 0


def test_the_context_ends_where_the_rotary_tables_end(handle: ModelHandle) -> None:
    assert session(handle, context=10 * CONTEXT).context == CONTEXT


def test_a_graph_that_does_not_load_is_a_corrupt_model(handle: ModelHandle, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((handle.root / "model.onnx").read_bytes()[:100])
    with pytest.raises(ModelCorrupt, match=r"model\.onnx cannot be loaded"):
        OnnxSession(tmp_path, handle.config, CONTEXT)


def test_missing_weights_are_a_corrupt_model(handle: ModelHandle, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((handle.root / "model.onnx").read_bytes())
    with pytest.raises(ModelCorrupt, match=r"model\.onnx cannot be loaded"):
        OnnxSession(tmp_path, handle.config, CONTEXT)


def test_reserved_memory_becomes_resident_as_it_is_written() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    cache = reserve((64, 1 << 20))  # 256 MiB
    assert process.memory_info().rss - before < 16 << 20
    cache[:2] = 1
    assert 8 << 20 <= process.memory_info().rss - before < 32 << 20
    assert not cache[2:4].any()


def test_profiling_leaves_a_file_and_spinning_can_be_turned_off(handle: ModelHandle) -> None:
    s = session(handle, profile=True, spinning=False)
    s.feed(TOKENS)
    path = Path(s.end_profiling())
    try:
        assert "GroupQueryAttention" in path.read_text(encoding="utf-8")
    finally:
        path.unlink()
