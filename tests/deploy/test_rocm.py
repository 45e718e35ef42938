"""The rocm target: the folder for vLLM and the file for llama.cpp, each verified by what stands in for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from deepseek_cli.deploy import find_target, outputs
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.handle import Bundle, ModelHandle, open_any
from deepseek_cli.runtime.gguf_session import GgufSession
from deepseek_cli.runtime.session import open_session
from deepseek_cli.runtime.transformers_session import TransformersSession
from deepseek_cli.store import Store
from tests.conftest import Outcome
from tests.deploy.bundles import built_from
from tests.deploy.test_gguf import model
from tests.deploy.test_vllm import model as latent_model

Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelHandle, Bundle]]:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "NEW_TOKENS", 12)
        yield built_from(model(folder), folder, DeploySpec("rocm", "tokens"))


def test_both_forms_are_verified_to_their_tokens(built: tuple[ModelHandle, Bundle]) -> None:
    found = built[1].manifest.verification
    assert found and (found["level"], found["failed"]) == ("L3", False)
    assert {c["name"] for c in found["checks"]} >= {"logits", "gguf: logits", "gguf: weights", "gguf: tokens, as shipped"}
    assert found["unrun"] == ["vllm on ROCm", "llama.cpp on ROCm"]
    assert built[1].manifest.readers == ("deepseek", "transformers", "vllm", "llama.cpp")


def test_the_file_runs_here(cli: Cli, built: tuple[ModelHandle, Bundle]) -> None:
    assert isinstance(open_session(built[1], threads=1), GgufSession)
    done = cli("run", built[1].root, "ab", "--raw", "--max-tokens", 4, "-q")
    assert (done.code, bool(done.out)) == (0, True)


def test_what_starts_either_server_names_what_is_there(built: tuple[ModelHandle, Bundle]) -> None:
    root = built[1].root
    services = yaml.safe_load((root / "compose.yaml").read_text())["services"]
    assert {*services} == {"vllm", "llama"}
    for service in services.values():
        assert service["devices"] == ["/dev/kfd", "/dev/dri"] and "nvidia" not in str(service)
        assert (root / service["volumes"][0].split(":")[0]).is_dir()
    assert not (root / "gguf/README.md").exists()
    assert (root / services["llama"]["volumes"][0].split(":")[0] / services["llama"]["command"][1].split("/")[-1]).is_file()
    units = [(root / f"deepseek-{name}.service").read_text() for name in ("vllm", "llama")]
    assert "/gguf/model.gguf --alias" in units[1] and "%" not in "".join(units) and "{" not in "".join(units)


def test_a_missing_file_is_named(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    shutil.rmtree(copy / "gguf")
    (copy / "README.md").unlink()
    assert find_target("rocm").unexpected(built[0], copy, 1) == ["README.md", "gguf"]


def test_what_gguf_does_not_hold_is_in_the_folder_alone(cli: Cli, tmp_path: Path) -> None:
    handle = latent_model(tmp_path, "deepseek_v2", "int8")
    words = ("deploy", handle.root, "--target", "rocm", "--verify", "logits", "-o", tmp_path / "bundle", "--threads", 1)
    done = cli(*words)
    assert (done.code, "The bundle holds no file for llama.cpp. " in done.err) == (0, True)
    assert not {f.name for f in (tmp_path / "bundle").iterdir()} & {"gguf", "deepseek-llama.service"}
    assert {*yaml.safe_load((tmp_path / "bundle/compose.yaml").read_text())["services"]} == {"vllm"}
    bundle = open_any(str(tmp_path / "bundle"), Store(tmp_path))
    assert isinstance(bundle, Bundle) and isinstance(open_session(bundle, threads=1), TransformersSession)
