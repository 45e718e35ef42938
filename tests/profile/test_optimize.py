"""Plans within a cap: the least that is needed, in order of cost; and that none of them changes a token."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import MemoryShort, ModelCorrupt
from deepseek_cli.handle import Bundle, ModelHandle, open_any, open_model
from deepseek_cli.main import main
from deepseek_cli.profile.optimize import as_bundle, fitted, ladder, optimize, optimize_apart, predict
from deepseek_cli.profile.runtimes import MIB, left_mapped
from deepseek_cli.profile.sketch import Sketch, sketch_of
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.memory_plan import MemoryPlan, read_plan
from deepseek_cli.runtime.onnx_session import OnnxSession
from deepseek_cli.runtime.session import open_session
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy

PROMPT = [5, 9, 17, 33, 65, 129, 250, 2, 7, 11] * 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def handle(store: Store) -> ModelHandle:
    make_toy(store.home / "toy", "llama", **DEPLOYABLE)
    return open_model(str(store.home / "toy"), store)


@pytest.fixture(scope="module")
def bundles(handle: ModelHandle, store: Store) -> dict[str, Bundle]:
    """The toy, dense and quantized."""
    small = quantize(handle, QuantizeSpec(scheme="int4-g32", level="fast"), store, store.home / "toy4")
    spec = DeploySpec(target="cpu", verify="structure")
    made = {}
    for name, source in (("dense", handle), ("int4", open_model(str(small.path), store))):
        done = deploy(source, spec, store, store.home / f"{name}+cpu", threads=1)
        made[name] = open_any(str(done.path), store)
    return made


@pytest.fixture(scope="module")
def sketches(bundles: dict[str, Bundle]) -> dict[str, Sketch]:
    return {name: sketch_of(bundle) for name, bundle in bundles.items()}


def tokens(bundle: Bundle, plan: MemoryPlan | None) -> list[int]:
    session = OnnxSession(bundle.root, bundle.config, 64, 1, plan=plan)
    found, fed = [], PROMPT
    for _ in range(16):
        found.append(int(session.feed(fed)[-1].argmax()))
        fed = found[-1:]
    return found


@pytest.mark.parametrize("kind", ["dense", "int4"])
def test_no_plan_changes_a_token(kind: str, bundles: dict[str, Bundle], sketches: dict[str, Sketch]) -> None:
    plain = tokens(bundles[kind], None)
    plans = [plan for _, plan, _ in ladder(sketches[kind], MemoryPlan(), may_narrow=False)]
    assert len({*plans}) == len(plans) == 5
    for plan in plans:
        assert tokens(bundles[kind], plan) == plain


def test_enough_memory_changes_nothing(sketches: dict[str, Sketch]) -> None:
    made = optimize(sketches["int4"], 10**10, 64)
    assert made.plan == MemoryPlan(context=64)
    assert made.choices == ()
    assert made.predicted_bytes == made.plain_bytes


@pytest.mark.parametrize("kind", ["dense", "int4"])
def test_every_cap_is_kept_at_the_least_cost(kind: str, sketches: dict[str, Sketch]) -> None:
    steps = list(ladder(sketches[kind], MemoryPlan(context=64), may_narrow=False))
    sizes = [predict(sketches[kind], plan, kv) for _, plan, kv in steps]
    assert sizes == sorted(sizes, reverse=True)
    for cap in sorted({*sizes, sizes[0] - 1, sizes[-1] + 1}):
        made = optimize(sketches[kind], cap, 64)
        assert made.predicted_bytes <= cap
        first = next(i for i, size in enumerate(sizes) if size <= cap)
        assert made.plan == steps[first][1]
        assert sum(saved for _, saved in made.choices) == made.plain_bytes - made.predicted_bytes


def test_a_default_context_shrinks_and_one_that_was_asked_for_does_not(sketches: dict[str, Sketch]) -> None:
    wide = replace(sketches["int4"], config=replace(sketches["int4"].config, context=4096))
    full = predict(wide, MemoryPlan(context=4096), "fp32")
    made = optimize(wide, full - 400_000)
    assert made.plan.context and 256 <= made.plan.context < 4096
    assert made.choices[-1][0] == "context"
    longer = replace(made.plan, context=made.plan.context + 1)
    assert predict(wide, longer, "fp32") > full - 400_000 >= made.predicted_bytes
    with pytest.raises(MemoryShort, match=r"needs 9\d(\.\d)? MB for 4096 tokens"):
        optimize(wide, full - 400_000, 4096)


def test_one_thread_packs_with_less_than_several(sketches: dict[str, Sketch]) -> None:
    one, two = (predict(sketches["dense"], MemoryPlan(context=64), "fp32", threads) for threads in (1, 2))
    assert one < two
    assert optimize(sketches["dense"], one, 64, threads=1).choices == ()
    assert optimize(sketches["dense"], one, 64, threads=2).choices


def test_nothing_fits_names_the_least_that_would_do(sketches: dict[str, Sketch]) -> None:
    sketch = sketches["dense"]
    least = predict(sketch, fitted(sketch, list(ladder(sketch, MemoryPlan(context=64), False))[-1][1], "fp32", 0), "fp32")
    with pytest.raises(MemoryShort, match=f"needs {least / 1e6:.1f} MB") as caught:
        optimize(sketch, 10 * MIB, 64)
    assert caught.value.exit_code == 4
    assert optimize(sketch, least, 64).predicted_bytes == least


def test_what_release_lets_go_is_what_was_predicted(bundles: dict[str, Bundle], sketches: dict[str, Sketch]) -> None:
    session = OnnxSession(bundles["int4"].root, bundles["int4"].config, 64, 1, plan=MemoryPlan(release=True))
    predicted = left_mapped(sketches["int4"].weights, sketches["int4"].config.tied)
    assert 0 < session.released_bytes < predicted + 256 * 4096  # whole pages


def test_a_deployed_plan_foresees_what_its_bundle_needs(handle: ModelHandle, sketches: dict[str, Sketch]) -> None:
    foreseen, found = as_bundle(sketch_of(handle), "fp32"), sketches["dense"]
    plan = MemoryPlan(context=64)
    assert predict(foreseen, plan, "fp32") == pytest.approx(predict(found, plan, "fp32"), rel=0.01)


def test_another_process_plans_the_same(bundles: dict[str, Bundle], sketches: dict[str, Sketch], store: Store) -> None:
    cap = predict(sketches["dense"], MemoryPlan(context=64), "fp32") - 1
    assert optimize_apart(bundles["dense"].root, store.home, cap, 64) == optimize(sketches["dense"], cap, 64)
    with pytest.raises(MemoryShort, match=r"--memory allows 1\.0 MB"):
        optimize_apart(bundles["dense"].root, store.home, 1_000_000, 64)


def test_a_bundle_runs_by_the_plan_in_its_manifest(handle: ModelHandle, store: Store) -> None:
    plan = MemoryPlan(release=True, chunk=16, context=32)
    done = deploy(handle, DeploySpec(target="cpu", verify="structure"), store, store.home / "planned+cpu", threads=1, plan=plan)
    bundle = open_any(str(done.path), store)
    session = open_session(bundle, threads=1)
    assert isinstance(session, OnnxSession)
    assert (session.chunk, session.context) == (16, 32)
    assert open_session(bundle, context=48, threads=1).context == 48  # what is asked for wins


@pytest.mark.parametrize("wrong", [3, {}, {"prepack": 1, "release": True, "chunk": 16, "context": 3}])
def test_a_damaged_plan_is_named(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match="memory_plan is not a memory plan"):
        read_plan({"memory_plan": wrong}, tmp_path / "deepseek.json")


def test_run_says_what_was_predicted_and_measured(
    bundles: dict[str, Bundle], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", str(bundles["int4"].root), "Hello", "--raw", "--max-tokens", "2", "--threads", "1", "--optimize-memory"]
    assert main([*words, "--memory", "4GB", "--json"]) == 0
    said = capsys.readouterr()
    plan = json.loads(said.out)["memory_plan"]
    assert plan["predicted_bytes"] == plan["plain_bytes"] > 0
    assert plan["measured_peak_bytes"] > 0
    assert "measured at most" in said.err
    assert main([*words, "--memory", "50MB"]) == 4
    assert "--memory allows 50.0 MB" in capsys.readouterr().err
    assert main(words) == 2
    assert "Add --memory" in capsys.readouterr().err
