"""Bundles from the machine cache answer as they do from their own files, and prompts through int8 nearly so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import DiskFull, ModelUnsupported, ResourceError, UsageError
from deepseek_cli.handle import Bundle, open_any, open_model
from deepseek_cli.ops import SparseSpec
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime import machine_cache, packed_session
from deepseek_cli.runtime.machine_cache import MachineCache
from deepseek_cli.runtime.memory_plan import MemoryPlan
from deepseek_cli.runtime.onnx_session import GRAPH, OnnxSession
from deepseek_cli.runtime.packed_session import FastPrefillSession, PrefillSession, open_packed
from deepseek_cli.runtime.session import open_session
from deepseek_cli.store import Store
from tests.deploy.test_deepseek import OWN, TOY
from tests.toys import DEPLOYABLE, make_toy

TOKENS = [(7919 * i) % 250 + 3 for i in range(40)]
CONTEXT, ROOM = 64, 10**9
EXPERTS = TOY | OWN["deepseek_v3"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("toy")
    store = Store(folder / "home")
    make_toy(folder / "dense", "qwen3", **DEPLOYABLE)
    quantize(open_model(str(folder / "dense"), store), QuantizeSpec(scheme="int4-g32", algorithm="rtn"), store, folder / "int4")
    deploy(open_model(str(folder / "int4"), store), DeploySpec(target="cpu", verify="structure"), store, folder / "cpu")
    found = open_any(str(folder / "cpu"), store)
    assert isinstance(found, Bundle)
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> MachineCache:
    return MachineCache(tmp_path_factory.mktemp("packed"), ROOM)


@pytest.fixture(scope="module")
def fast(bundle: Bundle, cache: MachineCache) -> FastPrefillSession:
    packed_session.packed(bundle.root, packed_session.DECODE, cache)
    found = open_packed(bundle.root, bundle.config, CONTEXT, 1, cache, fast_prefill=True)
    assert isinstance(found, FastPrefillSession)
    return found


def plain(bundle: Bundle) -> OnnxSession:
    return OnnxSession(bundle.root, bundle.config, CONTEXT, 1)


def test_packed_weights_give_the_same_logits(bundle: Bundle, fast: FastPrefillSession) -> None:
    fast.rewind(0)
    assert np.array_equal(fast.feed(TOKENS, keep=0), plain(bundle).feed(TOKENS, keep=0))


def test_threads_of_prompts_rest_behind_them(bundle: Bundle) -> None:
    """Polling for more they would take the cores from the session that decodes."""
    session = PrefillSession(bundle.root, bundle.config, CONTEXT, 2)
    session.append(TOKENS, 0)
    start = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - start < 0.01


def test_a_second_session_runs_from_the_cache(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Watched(OnnxSession):
        def __init__(self, folder: Path, *rest: Any, **options: Any) -> None:
            opened.append(folder)
            super().__init__(folder, *rest, **options)

    monkeypatch.setattr(packed_session, "OnnxSession", Watched)
    cache = MachineCache(tmp_path / "packed", ROOM)
    for _ in range(2):
        open_packed(bundle.root, bundle.config, CONTEXT, 1, cache)
    assert opened[0] == bundle.root
    assert opened[1].parent == cache.folder


def test_prompts_through_int8_differ_a_little(bundle: Bundle, fast: FastPrefillSession) -> None:
    exact, p = plain(bundle), plain(bundle)
    fast.rewind(0)
    found, wanted = fast.feed(TOKENS).copy(), exact.feed(TOKENS).copy()
    noise = p.feed([*TOKENS[:20], *TOKENS[21:]]) - wanted  # what another prompt changes
    assert 0 < np.abs(found - wanted).max() < 0.2 * np.abs(noise).max()
    assert fast.position == exact.position == len(TOKENS)
    assert fast.kv_bytes == exact.kv_bytes


def test_chunks_of_a_prompt_are_as_good_as_the_whole(fast: FastPrefillSession, monkeypatch: pytest.MonkeyPatch) -> None:
    fast.rewind(0)
    whole = fast.feed(TOKENS).copy()
    monkeypatch.setattr(fast.prefill, "chunk", 9)
    fast.rewind(0)
    assert np.allclose(fast.feed(TOKENS), whole, atol=1e-4)


def test_a_prompt_behind_others_goes_on_where_they_end(fast: FastPrefillSession) -> None:
    fast.rewind(0)
    whole = fast.feed(TOKENS).copy()
    fast.rewind(20)
    assert np.allclose(fast.feed(TOKENS[20:]), whole, atol=1e-4)


def test_single_tokens_are_the_bundles_own(fast: FastPrefillSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrefillSession, "append", None)  # would fail
    fast.rewind(0)
    for token in TOKENS[:3]:
        fast.feed([token])
    assert fast.position == 3


def test_what_does_not_fit_is_refused_before_anything_runs(fast: FastPrefillSession) -> None:
    fast.rewind(0)
    with pytest.raises(UsageError, match="do not fit"):
        fast.feed(TOKENS * 2)
    assert fast.position == 0


def test_a_cache_that_cannot_be_written_is_done_without(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = MachineCache(tmp_path / "file" / "packed", ROOM)
    assert isinstance(open_packed(bundle.root, bundle.config, CONTEXT, 1, cache), OnnxSession)
    with pytest.raises(ResourceError):
        open_packed(bundle.root, bundle.config, CONTEXT, 1, cache, fast_prefill=True)


def test_a_full_disk_is_done_without(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_cache, "ROOM", 10**18)
    cache = MachineCache(tmp_path / "packed", ROOM)
    for _ in range(2):
        assert isinstance(open_packed(bundle.root, bundle.config, CONTEXT, 1, cache), OnnxSession)
    with pytest.raises(DiskFull):
        open_packed(bundle.root, bundle.config, CONTEXT, 1, cache, fast_prefill=True)


def test_an_entry_that_does_not_load_goes(bundle: Bundle, tmp_path: Path) -> None:
    cache = MachineCache(tmp_path / "packed", ROOM)
    entry = packed_session.packed(bundle.root, packed_session.DECODE, cache)
    assert entry
    graph = entry / GRAPH
    graph.write_bytes(bytes(graph.stat().st_size))
    found = open_packed(bundle.root, bundle.config, CONTEXT, 1, cache)
    assert isinstance(found, OnnxSession)
    assert not entry.exists()


def test_a_processor_that_would_overflow_is_refused(bundle: Bundle, cache: MachineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_cache, "processor", lambda: ("old", "sse2 avx2"))
    monkeypatch.setattr(machine_cache.platform, "machine", lambda: "x86_64")
    with pytest.raises(ResourceError, match="VNNI"):
        open_packed(bundle.root, bundle.config, CONTEXT, 1, cache, fast_prefill=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparse": SparseSpec(tokens=160)}, "neither with sparse attention"),
        ({"plan": MemoryPlan()}, "nor by a memory plan"),
        ({"cache": None}, "packed_cache is 0"),
    ],
)
def test_fast_prefill_says_what_it_cannot_go_with(
    bundle: Bundle, cache: MachineCache, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_session(bundle, **{"cache": cache, **options}, fast_prefill=True)


def test_fast_prefill_is_for_cpu_bundles(bundle: Bundle, cache: MachineCache) -> None:
    handle = open_model(str(bundle.root.parent / "int4"), Store(bundle.root.parent / "home"))
    with pytest.raises(UsageError, match="for cpu bundles"):
        open_session(handle, cache=cache, fast_prefill=True)


@pytest.mark.parametrize(
    ("family", "kv"), [("qwen3", "fp16"), ("qwen3", "int8"), ("deepseek_v3", "fp32"), ("deepseek_v3", "fp16")]
)
def test_prompts_go_through_int8_whatever_the_model_and_its_cache(tmp_path: Path, family: str, kv: Any) -> None:
    store = Store(tmp_path / "home")
    make_toy(tmp_path / "dense", family, **(EXPERTS if family == "deepseek_v3" else DEPLOYABLE))
    spec = QuantizeSpec(scheme="int4-g32", algorithm="rtn", report=False)
    quantize(open_model(str(tmp_path / "dense"), store), spec, store, tmp_path / "int4")
    deploy(open_model(str(tmp_path / "int4"), store), DeploySpec(kv=kv, verify="structure"), store, tmp_path / "cpu")
    bundle = open_any(str(tmp_path / "cpu"), store)
    assert isinstance(bundle, Bundle)
    cache = MachineCache(tmp_path / "packed", ROOM)
    fast = open_session(bundle, context=CONTEXT, threads=1, cache=cache, fast_prefill=True)
    exact, other = plain(bundle), plain(bundle)
    found, wanted = fast.feed(TOKENS).copy(), exact.feed(TOKENS).copy()
    noise = other.feed([*TOKENS[:20], *TOKENS[21:]]) - wanted
    assert 0 < np.abs(found - wanted).max() < np.abs(noise).max()
    assert fast.kv_bytes == exact.kv_bytes


def test_what_multiplies_in_int8_anyway_has_no_second_form(bundle: Bundle, cache: MachineCache, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    spec = QuantizeSpec(scheme="int8-channel", algorithm="rtn", report=False)
    quantize(open_model(str(bundle.root.parent / "dense"), store), spec, store, tmp_path / "int8")
    deploy(open_model(str(tmp_path / "int8"), store), DeploySpec(verify="structure", rounds_tokens=True), store, tmp_path / "cpu")
    found = open_any(str(tmp_path / "cpu"), store)
    with pytest.raises(ModelUnsupported, match="multiplies in int8 as it is"):
        open_session(found, context=CONTEXT, threads=1, cache=cache, fast_prefill=True)
