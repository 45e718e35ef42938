"""`serve --engine ray`: two replicas on a Ray cluster of this machine, which the real command starts and stops."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from openai import OpenAI

from deepseek_cli import cluster
from deepseek_cli.errors import MissingExtra, UsageError
from deepseek_cli.handle import Bundle
from deepseek_cli.serve.replicas import Replicas, _require_room, behind_door
from deepseek_cli.serve.server import Place
from tests.cli.processes import ROOT
from tests.conftest import Outcome
from tests.serve.conftest import PATIENCE, Running

Cli = Callable[..., Outcome]
KEYS = {"use": "0123456789abcdef", "admin": "fedcba9876543210", "slow": "aaaabbbbccccdddd"}
HELLO = [{"role": "user", "content": "Hello"}]
SAMPLE = re.compile(r'^deepseek_(\w+)\{(?:.*,)?replica="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass
class Started:
    process: subprocess.Popen
    url: str
    log: Path
    client: OpenAI

    def measured(self, name: str) -> dict[str, float]:
        """By replica."""
        text = httpx.get(f"{self.url}/metrics", headers=bearer("admin"), timeout=PATIENCE).text
        return {replica: float(value) for found, replica, value in SAMPLE.findall(text) if found == name}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[key]}"}


@pytest.fixture(scope="module")
def started(toy: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("door")
    keys = folder / "keys.txt"
    keys.write_text(f"{KEYS['use']} someone\n{KEYS['admin']} boss admin\n{KEYS['slow']} slow use 3\n")
    words = ["serve", str(toy.root), "--engine", "ray", "--replicas", "2", "--threads", "1", "--slots", "4", "--port", "0"]
    words += ["--api-key-file", str(keys), "--log", str(folder / "log"), "--json"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "DEEPSEEK_HOME": str(folder)}
    with subprocess.Popen(
        [sys.executable, "-m", "deepseek_cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stderr
        said = []
        for line in process.stderr:
            said.append(line)
            if "served at" in line:
                break
        assert "served at" in said[-1], "".join(said)
        url = said[-1].split()[-1]
        with OpenAI(base_url=f"{url}/v1", api_key=KEYS["use"], max_retries=0, timeout=PATIENCE) as client:
            yield Started(process, url, folder / "log", client)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")


def test_answers_are_those_of_one_engine_here(started: Started, server: Running, toy: Bundle) -> None:
    ask: dict[str, Any] = {"model": toy.name, "max_tokens": 12, "seed": 4, "temperature": 0.8}
    clients = (started.client, server.client)
    for client in clients:
        assert [model.id for model in client.models.list()] == [toy.name]
    texts = [client.chat.completions.create(**ask, messages=HELLO).choices[0].message.content for client in clients]
    assert texts[0] == texts[1]
    streams = [client.completions.create(**ask, prompt="abc", n=2, logprobs=2, stream=True) for client in clients]
    told = [sorted((c.choices[0].index, c.choices[0].text, str(c.choices[0].logprobs)) for c in chunks) for chunks in streams]
    assert told[0] == told[1]
    vectors = [client.embeddings.create(model=toy.name, input="some text").data[0].embedding for client in clients]
    assert vectors[0] == vectors[1]
    assert httpx.get(f"{started.url}/ready").json() == {"status": "ready"}


def test_both_replicas_answer(started: Started, toy: Bundle) -> None:
    def ask(i: int) -> None:
        started.client.completions.create(model=toy.name, prompt=f"word {i}", max_tokens=20, temperature=0)

    end = time.monotonic() + PATIENCE
    with ThreadPoolExecutor(8) as pool:
        while time.monotonic() < end:
            list(pool.map(ask, range(8)))
            counts = started.measured("new_tokens_total")
            if len(counts) == 2 and all(counts.values()):
                break
    assert len(counts) == 2
    assert all(counts.values()), counts


def test_keys_and_rates_hold_for_all_replicas_together(started: Started, toy: Bundle) -> None:
    assert httpx.get(f"{started.url}/v1/models").status_code == 401
    assert httpx.get(f"{started.url}/metrics", headers=bearer("use")).status_code == 403
    statuses = [httpx.get(f"{started.url}/v1/models", headers=bearer("slow")).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]


def test_bad_requests_are_told_so(started: Started, toy: Bundle) -> None:
    def post(body: bytes) -> httpx.Response:
        headers = bearer("use") | {"content-type": "application/json"}
        return httpx.post(f"{started.url}/v1/completions", content=body, headers=headers, timeout=PATIENCE)

    assert post(b"{").status_code == 400
    assert post(json.dumps({"prompt": "x", "model": "other"}).encode()).status_code == 404
    assert post(b'"' + b"x" * 5_000_000).status_code == 413


def test_whoever_hangs_up_frees_the_slots(started: Started, toy: Bundle) -> None:
    before = sum(started.measured("new_tokens_total").values())
    ask = {"model": toy.name, "prompt": "abc", "max_tokens": 240, "temperature": 0, "logit_bias": {"2": -100}}
    stream = started.client.completions.create(**ask, n=16, stream=True)
    next(iter(stream))
    stream.response.close()
    end = time.monotonic() + PATIENCE
    while any(started.measured("active_requests").values()) or any(started.measured("queue_requests").values()):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert 0 < sum(started.measured("new_tokens_total").values()) - before < 16 * 240


def test_it_finishes_what_it_began_when_told_to_stop(started: Started, toy: Bundle) -> None:
    """The last of these tests: there is nothing to ask behind it."""
    body = {"prompt": "abc", "max_tokens": 100, "stream": True, "temperature": 0, "logit_bias": {"2": -100}}
    with httpx.stream("POST", f"{started.url}/v1/completions", json=body, headers=bearer("use"), timeout=PATIENCE) as answer:
        chunks = answer.iter_text()
        text = next(chunks)
        started.process.send_signal(signal.SIGTERM)
        text += "".join(chunks)
    out, err = started.process.communicate(timeout=PATIENCE)
    assert text.endswith("data: [DONE]\n\n")
    assert started.process.returncode == 0, err
    document = json.loads(out)
    records = [json.loads(line) for line in started.log.read_text().splitlines()]
    assert (document["ok"], document["replicas"]) == (True, [2, 2])
    assert document["new_tokens"] == sum(record.get("new_tokens", 0) for record in records) >= 100
    assert {record["client"] for record in records if record["status"] == 200} >= {"someone", "boss", "slow"}


@pytest.mark.parametrize("missing", ["ray", "grpc"])
def test_without_ray_the_line_that_installs_it(toy: Bundle, cli: Cli, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    found = cluster.importlib.util.find_spec
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name, *rest: None if name == missing else found(name, *rest))
    done = cli("serve", toy.root, "--engine", "ray", "--json")
    assert (done.code, done.json["error"]["code"]) == (4, "missing-extra")
    assert "pip install 'deepseek-cli[ray]'" in done.json["error"]["hint"]
    with pytest.raises(MissingExtra, match=missing), behind_door(toy, Replicas(), Place(), lambda record: None, print):
        pass


@pytest.mark.parametrize(
    "words",
    [
        ("--replicas", "2"),
        ("--engine", "ray", "--replicas", "0"),
        ("--engine", "ray", "--replicas", "4-2"),
        ("--engine", "ray", "--replicas", "many"),
        ("--engine", "ray", "--host", "0.0.0.0"),
        ("--engine", "ray", "--context", "100000"),
    ],
)
def test_options_that_make_no_sense(toy: Bundle, cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("serve", toy.root, *words).code == 2


def test_replicas_for_which_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "processors", lambda: [4, 2])
    _require_room(Replicas(3, 8), 2)
    with pytest.raises(UsageError, match="room for 3 replicas of 2 threads, and 4 are to run"):
        _require_room(Replicas(4, 8), 2)
