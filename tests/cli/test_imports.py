"""Help, mistakes and small commands start without the heavy packages; each in a fresh process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepseek_cli.sources.embedded import DATA
from tests.cli.processes import PRESENT, start
from tests.sources.loopback_hub import Hub, serving

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "huggingface_hub", "transformers", "tokenizers", "safetensors")
MORE = {"run": ["hello"], "compress": ["--smaller", "50%"]}
CODE = f"""
import contextlib, io, json, sys
from deepseek_cli.main import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    codes = [main(words) for words in json.loads(sys.argv[1])]
print(json.dumps([codes, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def codes_and_heavy(tmp_path: Path, *lines: list[str]) -> tuple[list[int], list[str]]:
    done = start(json.dumps(lines), code=CODE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    codes, heavy = json.loads(done.stdout)
    return codes, heavy


def test_the_program_itself_is_light(tmp_path: Path) -> None:
    codes, heavy = codes_and_heavy(tmp_path, [], ["--help"], ["--version"], ["--version", "--json"], ["nope"], ["--nope"])
    assert (codes, heavy) == ([0, 0, 0, 0, 2, 2], [])


@pytest.mark.parametrize("name", PRESENT)
def test_help_and_mistakes_are_light(name: str, tmp_path: Path) -> None:
    codes, heavy = codes_and_heavy(tmp_path, [name, "--help"], [name, "--no-such-option"], [name, "--color", "mauve"])
    assert (codes, heavy) == ([0, 2, 2], [])


@pytest.mark.parametrize(
    "words", [["list"], ["config"], ["config", "path"], ["plugins"], ["completion", "bash"], ["doctor"]], ids=" ".join
)
def test_small_commands_are_light(words: list[str], tmp_path: Path) -> None:
    codes, heavy = codes_and_heavy(tmp_path, words)
    assert (codes, heavy) == ([0], [])


def test_a_model_is_pulled_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a hub, with its header checked and its tensors held against its config: none of that needs what would compute."""
    files = {f.name: f.read_bytes() for f in (DATA / "nano").iterdir() if f.suffix in (".json", ".safetensors")}
    for name, path in (("HF_HOME", "hub"), ("DEEPSEEK_HOME", "home")):
        monkeypatch.setenv(name, str(tmp_path / path))
    with serving(Hub(files)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        codes, heavy = codes_and_heavy(tmp_path, ["pull", "hf:org/name", "-n"], ["pull", "hf:org/name"], ["pull", "hf:org/name"])
    assert (codes, heavy) == ([0, 0, 0], ["huggingface_hub"])


@pytest.mark.parametrize(
    "name", [n for n in ("quantize", "deploy", "run", "show", "verify", "compress", "profile") if n in PRESENT]
)
def test_a_model_that_is_missing_is_reported_without_the_heavy_packages(name: str, tmp_path: Path) -> None:
    codes, heavy = codes_and_heavy(tmp_path, [name, "./nowhere", *MORE.get(name, [])])
    assert (codes, heavy) == ([3], [])
