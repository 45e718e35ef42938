"""Slots side by side: their buffers stay bound, their memory is given back, and many at once may run through int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.handle import Bundle, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.machine_cache import MachineCache
from deepseek_cli.runtime.onnx_session import OnnxSession
from deepseek_cli.runtime.packed_session import packed_for_batches
from deepseek_cli.serve import slots
from deepseek_cli.serve.server import open_service
from deepseek_cli.serve.slots import HIDDEN, WIDE, Slots
from deepseek_cli.store import Store
from tests.serve.conftest import bundled

CONTEXT, MANY = 128, WIDE + 1
PROMPTS = [[(7919 * i + 31 * slot) % 250 + 3 for i in range(5 + slot)] for slot in range(MANY)]


@pytest.fixture(scope="module")
def int4(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("int4")
    store = Store(folder)
    spec = QuantizeSpec(scheme="int4-g32", algorithm="rtn", report=False)
    quantize(open_model(str(toy_folder), store), spec, store, folder / "int4")
    return bundled(str(folder / "int4"), folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> MachineCache:
    return MachineCache(tmp_path_factory.mktemp("packed"), 10**9)


def filled(bundle: Bundle, wide: Path | None = None) -> Slots:
    found = Slots(bundle.root, bundle.config, MANY, CONTEXT, 1, wide=wide)
    for slot, prompt in enumerate(PROMPTS):
        found.extend(slot, prompt)
    return found


def stepped(found: Slots, first: int, last: int) -> list[np.ndarray]:
    return [logits.copy() for logits in found.step({slot: 9 + slot for slot in range(first, last)}).values()]


def alone(session: OnnxSession, slot: int) -> np.ndarray:
    session.rewind(0)
    session.feed(PROMPTS[slot])
    return session.feed([9 + slot])[0].copy()


@pytest.mark.parametrize("bound", [1, 64])
def test_ranges_of_slots_in_any_order_give_the_same(toy: Bundle, monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    monkeypatch.setattr(slots, "BOUND", bound)
    found, session = filled(toy), OnnxSession(toy.root, toy.config, CONTEXT, 1)
    for first, last in [(0, 3), (1, 2), (0, 3), (2, MANY), (1, 2)]:
        lengths = found.lengths.copy()
        for slot, logits in zip(range(first, last), stepped(found, first, last), strict=True):
            assert np.array_equal(logits, alone(session, slot))
        found.lengths[:] = lengths
    assert len(found.bound) <= bound


def test_hidden_states_and_logits_of_one_slot_take_turns(toy: Bundle) -> None:
    found = Slots(toy.root, toy.config, 1, CONTEXT, 1)
    logits = found.extend(0, PROMPTS[0]).copy()
    found.cut(0, 0)
    states = found.extend_hidden(0, PROMPTS[0])
    found.cut(0, 0)
    assert states.shape == (len(PROMPTS[0]), toy.config.hidden)
    assert np.array_equal(found.extend(0, PROMPTS[0]), logits)
    assert {key[-1] for key in found.bound} == {"logits", HIDDEN}


def test_memory_is_given_back_once(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    found, given = filled(toy), list[int]()
    monkeypatch.setattr(slots, "_give_back", lambda rows: given.append(len(rows)))
    found.cut(0, len(PROMPTS[0]))
    assert not given
    found.exchange(0, 1)  # the shorter one's rows lie where the longer one's were
    for slot in (0, 1, 0, 1):
        found.cut(slot, found.lengths[slot])
    assert len(given) == toy.config.layers * 2 * toy.config.kv_heads


def test_many_at_once_run_through_int8_each_as_it_would_alone(int4: Bundle, cache: MachineCache) -> None:
    wide = packed_for_batches(int4.root, cache)
    found = stepped(filled(int4, wide), 0, MANY)
    session = OnnxSession(wide, int4.config, CONTEXT, 1)
    assert all(np.array_equal(logits, alone(session, slot)) for slot, logits in enumerate(found))


def test_few_at_once_run_through_the_bundles_own_codes(int4: Bundle, cache: MachineCache) -> None:
    """Behind prompts that were read in int8."""
    wide = packed_for_batches(int4.root, cache)
    found = stepped(filled(int4, wide), 0, WIDE - 1)
    reader = OnnxSession(wide, int4.config, CONTEXT, 1)
    writer = OnnxSession(int4.root, int4.config, CONTEXT, 1, cache=reader.cache)
    for slot, logits in enumerate(found):
        reader.rewind(0)
        reader.feed(PROMPTS[slot])
        writer.position = reader.position
        assert np.array_equal(logits, writer.feed([9 + slot])[0])


def test_what_int8_costs_is_little(int4: Bundle, cache: MachineCache) -> None:
    plain, wide = filled(int4), filled(int4, packed_for_batches(int4.root, cache))
    for exact, near in zip(stepped(plain, 0, MANY), stepped(wide, 0, MANY), strict=True):
        assert 0 < np.abs(near - exact).max() < 0.05 * np.ptp(exact)


def test_a_bundle_without_quantized_products_has_no_form_for_many(toy: Bundle, cache: MachineCache) -> None:
    with pytest.raises(ModelUnsupported, match="no quantized products"):
        open_service(toy, slots=2, threads=1, batch_int8=cache)
