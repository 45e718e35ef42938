"""A cpu bundle's own drafting layer guesses what the PyTorch interpreter's does, and never changes the text."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepseek_cli.deploy import find_target, verify
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.handle import Bundle, ModelHandle, open_model
from deepseek_cli.ops.drafting import DRAFT
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime import onnx_draft
from deepseek_cli.runtime.generate import Generation, generate_tokens
from deepseek_cli.runtime.onnx_draft import DraftingSession
from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.runtime.session import open_session
from deepseek_cli.runtime.speculate import Drafter
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.serve.slots import Slots
from deepseek_cli.store import Store
from tests.conftest import Outcome
from tests.deploy.bundles import built_from, flip_bit
from tests.fp8_toys import DEEPSEEK, add_draft
from tests.runtime.test_speculate import Ticks, with_draft
from tests.toys import make_toy

PROMPT = list(range(3, 20))
TURNS = [PROMPT, [7], [8, 9, 10], [11], [30, 31]]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were one layer of many."""
    monkeypatch.setattr(onnx_draft, "PARTS", 0.1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Bundle]:
    """A quantized toy and its bundle."""
    folder = tmp_path_factory.mktemp("built")
    make_toy(folder / "toy", "deepseek_v3", **DEEPSEEK)
    add_draft(folder / "toy")
    store = Store(folder)
    quantize(open_model(str(folder / "toy"), store), QuantizeSpec(scheme="int4-g32", report=False), store, folder / "quantized")
    return built_from(open_model(str(folder / "quantized"), store), folder, DeploySpec(verify="tokens"))


@pytest.fixture
def quiet(tmp_path: Path) -> tuple[ModelHandle, Bundle]:
    """One whose guesses come true, and its bundle."""
    return built_from(with_draft(tmp_path / "toy", quiet=True), tmp_path, DeploySpec(verify="structure"))


def test_its_weights_are_proven_and_those_of_the_model_stand_once(built: tuple[ModelHandle, Bundle]) -> None:
    handle, bundle = built
    checks = {check["name"]: check for check in bundle.manifest.verification["checks"]}
    assert bundle.manifest.verification["level"] == "L3"
    assert checks["weights"]["tensors"] == len(handle.weights) + len(handle.draft_weights)
    names = [file.name for file in bundle.root.iterdir() if file.name.startswith(("model.onnx", "draft.onnx"))]
    assert sorted(names) == ["draft.onnx", "model.onnx", "model.onnx.data"]
    places, drafts = (places_of(bundle.root / name) for name in ("model.onnx", DRAFT))
    shared = places.keys() & drafts.keys()
    assert {name.split(".")[0] for name in shared} >= {"model", "lm_head"}
    assert {name: places[name] for name in shared} == {name: drafts[name] for name in shared}


def places_of(graph: Path) -> dict[str, tuple[tuple[str, str], ...]]:
    import onnx

    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    return {t.name: tuple(sorted((entry.key, entry.value) for entry in t.external_data)) for t in tensors if t.external_data}


def test_a_changed_bit_of_it_is_named(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    flip_bit(copy, "model.layers.3.eh_proj.codes", DRAFT)
    assert verify.check_weights(find_target("cpu"), built[0], copy)["differing"] == ["model.layers.3.eh_proj.weight"]


def test_without_its_graph_structure_is_not_as_expected(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    (copy / DRAFT).unlink()
    assert not verify.check_structure(find_target("cpu"), built[0], copy, 1)["ok"]


def test_it_guesses_what_pytorch_guesses(quiet: tuple[ModelHandle, Bundle]) -> None:
    handle, bundle = quiet
    wanted, found = TorchSession(handle, 128, drafts=True), DraftingSession(bundle.root, bundle.config, 128, 1)
    for turn, following in zip(TURNS, [7, 8, 11, 30, 5], strict=True):
        for session in (wanted, found):
            session.feed(turn)
        assert found.draft(following) == wanted.draft(following)
    for session in (wanted, found):
        session.rewind(20)
        session.feed([40, 41])
    assert found.draft(42) == wanted.draft(42)


def test_states_are_those_of_pytorch(quiet: tuple[ModelHandle, Bundle]) -> None:
    handle, bundle = quiet
    wanted, found = TorchSession(handle, 128, drafts=True), DraftingSession(bundle.root, bundle.config, 128, 1)
    for session in (wanted, found):
        session.feed(PROMPT)
    np.testing.assert_allclose(found.unseen, wanted.hidden[0][0].numpy(), atol=1e-4)


def test_of_a_long_prompt_it_sees_the_end(quiet: tuple[ModelHandle, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_draft, "LOOKBACK", 6)
    bundle = quiet[1]
    session = DraftingSession(bundle.root, bundle.config, 128, 1)
    session.feed(PROMPT)
    assert session.draft(7) is not None and session.layer.position == 6
    session.feed([7, 8])
    session.rewind(len(PROMPT) + 1)
    assert session.draft(9) is not None and session.layer.position == 7
    session.rewind(4)
    session.feed([1])
    assert session.draft(9) is not None and session.layer.position == 1


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, seed=3), Sampling(repetition_penalty=1.3)])
@pytest.mark.parametrize("kind", ["quiet", "quantized"])
def test_tokens_are_those_of_plain_decoding(
    built: tuple[ModelHandle, Bundle], quiet: tuple[ModelHandle, Bundle], kind: str, sampling: Sampling
) -> None:
    bundle = (quiet if kind == "quiet" else built)[1]
    plain, drafting = (open_session(bundle, context=128, threads=1, drafts=drafts) for drafts in (False, True))
    assert isinstance(drafting, DraftingSession)
    made, wanted = Generation(), [token for token, _ in generate_tokens(plain, PROMPT, 64, sampling)]
    drafter = Drafter(Ticks(drafting))
    assert [t for t, _ in generate_tokens(drafting, PROMPT, 64, sampling, made=made, drafter=drafter)] == wanted
    assert drafting.position == plain.position and made.drafted > 0
    if kind == "quiet" and not sampling.temperature:
        assert made.accepted > made.drafted // 4


def test_a_full_context_ends_both_alike(quiet: tuple[ModelHandle, Bundle]) -> None:
    found = []
    for drafts in (False, True):
        session, made = open_session(quiet[1], context=21, threads=1, drafts=drafts), Generation()
        tokens = [token for token, _ in generate_tokens(session, PROMPT, 64, Sampling(), made=made)]
        found.append((tokens, made.finish))
    assert found[0] == found[1] and found[0][1] == "context"


def test_the_server_reads_hidden_states_as_the_bundle_gives_them(built: tuple[ModelHandle, Bundle]) -> None:
    bundle = built[1]
    slots, session = Slots(bundle.root, bundle.config, 1, 128, 1), DraftingSession(bundle.root, bundle.config, 128, 1)
    assert session.feed(PROMPT).shape[1] == bundle.config.vocabulary
    np.testing.assert_array_equal(slots.extend_hidden(0, PROMPT), session.unseen)


def test_run_drafts_with_it(quiet: tuple[ModelHandle, Bundle], cli: Callable[..., Outcome]) -> None:
    said = [cli("run", quiet[1].root, "ab", "--raw", "--max-tokens", 8, *more) for more in ((), ("--draft", "-v"))]
    assert said[0].out == said[1].out and "guesses were right" in said[1].err


def test_in_a_model_of_few_layers_the_text_alone_guesses(
    quiet: tuple[ModelHandle, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(open_session(quiet[1], context=64, threads=1, drafts=True), DraftingSession)
    monkeypatch.setattr(onnx_draft, "PARTS", 2)
    assert not isinstance(open_session(quiet[1], context=64, threads=1, drafts=True), DraftingSession)
