"""Bundles of other engines: `serve` starts llama.cpp's server itself, and tells vLLM's what it was told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from deepseek_cli.errors import MissingExtra, ModelUnsupported
from deepseek_cli.handle import Bundle
from deepseek_cli.runtime.chat_session import open_chat
from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.serve.foreign import INSTALLED, part_of
from tests.cli.processes import ROOT
from tests.conftest import Outcome
from tests.deploy.test_gguf import deployed, model
from tests.serve.conftest import PATIENCE, bundled

Cli = Callable[..., Outcome]
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("gguf")
    return deployed(model(folder), folder, "structure")


@pytest.fixture(scope="module")
def vllm(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundled(str(toy_folder), tmp_path_factory.mktemp("vllm"), target="vllm")


@pytest.fixture(scope="module")
def rocm(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("rocm")
    return bundled(str(model(folder).root), folder, target="rocm")


@pytest.fixture(scope="module")
def cuda(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundled(str(toy_folder), tmp_path_factory.mktemp("cuda"), target="cuda")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.txt"
    file.write_text(f"# ours\n{KEY} somebody\n")
    return file


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
@pytest.mark.parametrize("target", ["gguf", "rocm"])
def test_llama_cpp_serves_what_run_says(target: str, request: pytest.FixtureRequest, keys: Path, tmp_path: Path) -> None:
    bundle: Bundle = request.getfixturevalue(target)
    run = open_chat(bundle, Sampling(), 6, threads=1, raw=True)
    text = "".join(run.ask("ab ab"))
    words = ["serve", str(bundle.root), "--port", "0", "--slots", "2", "--context", "256", "--threads", "1", "--json"]
    command = [sys.executable, "-m", "deepseek_cli", *words, "--api-key-file", str(keys)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "DEEPSEEK_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stderr
        url = next(line for line in process.stderr if "served at" in line).split()[-1]
        body = {"prompt": "ab ab", "max_tokens": 6, "temperature": 0}
        refused = httpx2.post(f"{url}/v1/completions", json=body, timeout=PATIENCE)
        headers = {"authorization": f"Bearer {KEY}"}
        answer = httpx2.post(f"{url}/v1/completions", json=body, headers=headers, timeout=PATIENCE).json()
        slots = httpx2.get(f"{url}/slots", headers=headers, timeout=PATIENCE).json()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    assert refused.status_code == 401
    assert (answer["choices"][0]["text"], answer["model"]) == (text, bundle.name)
    assert [slot["n_ctx"] for slot in slots] == [256, 256]
    assert process.returncode == 0, err
    assert json.loads(out)["engine"] == "gguf"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script")
@pytest.mark.parametrize(("target", "place"), [("vllm", "."), ("rocm", "."), ("cuda", "vllm")])
def test_vllm_is_told_what_was_said(
    cli: Cli,
    target: str,
    place: str,
    request: pytest.FixtureRequest,
    keys: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a program of that name, which writes down its words and the file that they name."""
    bundle: Bundle = request.getfixturevalue(target)
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\nfor last; do :; done\ncp "$last" {tmp_path}/config\nexit 7\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    done = cli("serve", bundle.root, "--port", 8123, "--slots", 3, "--context", 48, "--api-key-file", keys)
    assert done.code == 7
    words = (tmp_path / "words").read_text().split()
    assert words[:2] == ["serve", str(bundle.root / place)]
    told = dict(zip(words[2::2], words[3::2], strict=True))
    config = told.pop("--config")
    assert told == {
        "--served-model-name": bundle.name,
        "--host": "127.0.0.1",
        "--port": "8123",
        "--max-model-len": "48",
        "--max-num-seqs": "3",
    }
    assert json.loads((tmp_path / "config").read_text()) == {"api-key": [KEY]}
    assert not Path(config).exists()


@pytest.mark.parametrize("target", ["metal", "mobile", "openvino", "tensorrt", "web", "of-a-plugin"])
def test_what_no_server_here_runs_is_refused_with_what_to_do(toy: Bundle, target: str) -> None:
    with pytest.raises(ModelUnsupported, match=f"is a {target} bundle, which serve does not run") as caught:
        part_of(replace(toy, target=target))
    assert "deepseek deploy MODEL --target cpu" in caught.value.hint


def test_neither_server_of_a_rocm_bundle_is_there(rocm: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INSTALLED, "gguf", lambda: None)
    with pytest.raises(MissingExtra, match="Neither vLLM nor"):
        part_of(rocm)


def test_without_vllm_it_says_how_to_install_it(cli: Cli, vllm: Bundle) -> None:
    done = cli("serve", vllm.root)
    assert (done.code, "pip install vllm" in done.err) == (4, True)


@pytest.mark.parametrize("words", [("--log", "-"), ("--memory", "900GB"), ("--set", "queue=3"), ("--context", "100000")])
def test_what_cannot_be_said_there_is_refused(cli: Cli, gguf: Bundle, words: tuple[str, ...]) -> None:
    assert cli("serve", gguf.root, *words).code == 2


def test_roles_of_keys_are_refused(cli: Cli, gguf: Bundle, keys: Path) -> None:
    keys.write_text(f"{KEY} somebody admin\n")
    assert cli("serve", gguf.root, "--api-key-file", keys).code == 2
