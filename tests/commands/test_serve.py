from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.cli.processes import ROOT
from tests.commands.conftest import BUNDLE, QUANTIZED, Stock
from tests.conftest import Outcome

Cli = Callable[..., Outcome]


def test_beyond_this_machine_it_wants_keys(cli: Cli, stock: Stock) -> None:
    done = cli("serve", BUNDLE, "--host", "0.0.0.0")
    assert done.code == 2
    assert "--api-key-file" in done.err


@pytest.mark.parametrize(
    "words", [["--slots", "0"], ["--slots", "65"], ["--slots", "many"], ["--port", "70000"], ["--set", "queue=0"]]
)
def test_options_that_make_no_sense(cli: Cli, stock: Stock, words: list[str]) -> None:
    assert cli("serve", BUNDLE, *words).code == 2


def test_a_model_that_is_no_bundle(cli: Cli, stock: Stock) -> None:
    done = cli("serve", QUANTIZED)
    assert done.code == 3
    assert f"deepseek deploy {QUANTIZED} --target cpu" in done.err


def test_memory_that_holds_nothing(cli: Cli, stock: Stock) -> None:
    assert cli("serve", BUNDLE, "--memory", "1MB").code == 4


def test_a_log_that_cannot_be_written(cli: Cli, stock: Stock, tmp_path: Path) -> None:
    done = cli("serve", BUNDLE, "--log", tmp_path / "nowhere/log.jsonl")
    assert done.code == 4
    assert "nowhere" in done.err
    assert "--log" in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_it_finishes_what_it_began_when_told_to_stop(stock: Stock, tmp_path: Path) -> None:
    """SIGTERM comes while an answer streams: the answer is whole, and the exit is 0."""
    words = ["-m", "deepseek_cli", "serve", BUNDLE, "--port", "0", "--threads", "1", "--json", "--log", str(tmp_path / "log")]
    words += ["--memory-profile"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environ
    ) as process:
        assert process.stdout and process.stderr
        line = next(line for line in process.stderr if "served at" in line)
        url = line.split()[-1]
        body = {"prompt": "abc", "max_tokens": 100, "stream": True, "temperature": 0, "logit_bias": {"2": -100}}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            chunks = answer.iter_text()
            text = next(chunks)
            process.send_signal(signal.SIGTERM)
            text += "".join(chunks)
        out, err = process.communicate(timeout=60)
    assert text.endswith("data: [DONE]\n\n")
    assert process.returncode == 0, err
    document = json.loads(out)
    assert (document["ok"], document["new_tokens"], document["requests"]) == (True, 100, 1)
    assert "deepseek serve" in (tmp_path / document["memory_profile"]).read_text(encoding="utf-8")
    record = json.loads((tmp_path / "log").read_text())
    assert (record["path"], record["status"], record["new_tokens"]) == ("/v1/completions", 200, 100)
