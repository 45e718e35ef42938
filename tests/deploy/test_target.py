"""What every target has in common: targets of other packages, and runtimes that are not installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepseek_cli.deploy import auto
from deepseek_cli.deploy.auto import Machine, choose
from deepseek_cli.deploy.engine import deploy, verify_again
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import MissingExtra, ModelUnsupported
from deepseek_cli.handle import Bundle, ModelHandle, open_any, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.session import open_session, require
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy

HEAD = """
from dataclasses import replace
from deepseek_cli.deploy import cpu
from deepseek_cli.deploy.target import require
"""
RUNS = 'TARGET = replace(cpu.TARGET, name="acme")'
LACKS = 'TARGET = replace(cpu.TARGET, name="acme", runtime=lambda: require("acme-runtime", "acme"))'
Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    def installed(target: str) -> None:
        site = tmp_path / "site"
        info = site / "acme-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text("[deepseek.targets]\nacme = acme_target:TARGET\n", encoding="utf-8")
        (site / "acme_target.py").write_text(HEAD + target, encoding="utf-8")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(__import__("sys").modules, "acme_target", raising=False)

    return installed


@pytest.fixture
def model(tmp_path: Path) -> ModelHandle:
    make_toy(tmp_path / "toy", **DEPLOYABLE)
    store = Store(tmp_path)
    spec = QuantizeSpec(algorithm="rtn", report=False)
    return open_model(str(quantize(open_model(str(tmp_path / "toy"), store), spec, store, tmp_path / "q").path), store)


def test_a_target_of_another_package_deploys_verifies_and_runs(
    install: Install, model: ModelHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(RUNS)
    store = Store(tmp_path)
    done = deploy(model, DeploySpec(target="acme", verify="tokens"), store, tmp_path / "b", threads=1)
    assert (done.target, done.verification["level"]) == ("acme", "L3")
    bundle = open_any(str(tmp_path / "b"), store)
    assert isinstance(bundle, Bundle)
    assert bundle.target == "acme"
    assert verify_again(bundle, model, 1)["level"] == "L3"
    ours = open_session(model, threads=1, device="cpu").feed([1, 2, 3])
    assert np.abs(open_session(bundle, threads=1).feed([1, 2, 3]) - ours).max() < 0.1 * np.ptp(ours)
    monkeypatch.setenv("DEEPSEEK_NO_PLUGINS", "1")
    with pytest.raises(ModelUnsupported, match="is a bundle for acme, which nothing here can run"):
        open_session(bundle, threads=1)


def test_a_runtime_of_another_version_than_needed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "xllamacpp-2024.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: xllamacpp\nVersion: 2024.1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(info.parent)
    with pytest.raises(MissingExtra, match=r"xllamacpp 2024.1 is installed, and ==2026.10.\* is needed") as refused:
        require("xllamacpp", "gguf")
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("level", [None, "logits", "tokens"])
def test_a_missing_runtime_is_said_before_the_work(
    install: Install, model: ModelHandle, tmp_path: Path, level: str | None
) -> None:
    install(LACKS)
    with pytest.raises(MissingExtra, match="acme-runtime is not installed") as caught:
        deploy(model, DeploySpec(target="acme", verify=level), Store(tmp_path), tmp_path / "b", threads=1)  # type: ignore[arg-type]
    assert "pip install 'deepseek-cli[acme]'" in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_without_its_runtime_a_bundle_is_written_and_read_back(install: Install, model: ModelHandle, tmp_path: Path) -> None:
    install(LACKS)
    done = deploy(model, DeploySpec(target="acme", verify="weights"), Store(tmp_path), tmp_path / "b", threads=1)
    assert (done.verification["level"], done.verification["runtime"]) == ("L1", None)


@pytest.mark.parametrize(
    ("system", "processor", "gpus", "installed", "target"),
    [
        ("Linux", "x86_64", (), (), "cpu"),
        ("Linux", "x86_64", ("nvidia",), (), "cpu"),
        ("Linux", "x86_64", ("nvidia",), ("vllm",), "vllm"),
        ("Linux", "x86_64", ("nvidia",), ("onnxruntime-gpu",), "cuda"),
        ("Linux", "x86_64", ("amd",), ("vllm",), "rocm"),
        ("Linux", "x86_64", ("amd",), ("onnxruntime-gpu",), "cpu"),
        ("Linux", "x86_64", (), ("vllm", "mlx-lm"), "cpu"),
        ("Darwin", "arm64", (), ("mlx-lm",), "metal"),
        ("Darwin", "arm64", (), (), "cpu"),
        ("Darwin", "x86_64", (), ("mlx-lm",), "cpu"),
    ],
)
def test_auto_is_what_the_machine_can_run(
    system: str, processor: str, gpus: tuple[str, ...], installed: tuple[str, ...], target: str
) -> None:
    name, reason = choose(Machine(system, processor, frozenset(gpus), frozenset(installed)))
    assert name == target
    assert reason


def test_auto_says_what_it_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "this_machine", lambda: Machine("Darwin", "arm64", frozenset(), frozenset({"mlx-lm"})))
    said: list[str] = []
    reporter = SimpleNamespace(note=lambda message, **facts: said.append(message.format(**facts)))
    assert auto.concrete(DeploySpec(), reporter).target == "metal"  # type: ignore[arg-type]
    assert said == ["Target metal: Apple silicon, and mlx-lm is installed."]
    assert auto.concrete(DeploySpec(target="gguf")).target == "gguf"
