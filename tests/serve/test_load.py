"""`bench --serve`: what its client counts is what servers did."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.bench.client import Reply, Round
from deepseek_cli.bench.load import Load, parse_loads
from deepseek_cli.bench.serve import bench_servers, figures_of
from deepseek_cli.bench.spec import BenchSpec
from deepseek_cli.errors import ModelNotFound, NetworkError, UsageError
from deepseek_cli.handle import Bundle
from tests.serve.conftest import Running

SMALL = {"prompt_tokens": "4", "new_tokens": "5", "rounds": 2, "requests": 6}


class Flaky(BaseHTTPRequestHandler):
    """Answers every other completion with an error."""

    protocol_version = "HTTP/1.1"
    asked = 0
    models: tuple[dict[str, Any], ...] = ({"id": "flaky"},)

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": self.models}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        Flaky.asked += 1
        if Flaky.asked % 2:
            self._send(503, b'{"error": {"message": "come back later"}}')
        else:
            chunk = {"choices": [{"text": "word"}], "usage": {"completion_tokens": 1, "prompt_tokens": 7}}
            self._send(200, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None: ...


@contextmanager
def flaky(handler: type[Flaky] = Flaky) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def metrics(document: dict[str, Any], place: int = 0) -> dict[str, list[float]]:
    return {name: found["samples"] for name, found in document["arms"][place]["metrics"].items()}


@pytest.mark.parametrize("load", ["2", "50/s"])
def test_counts_are_those_of_the_server(server: Running, tmp_path: Path, load: str) -> None:
    """12 requests of two rounds and two to warm up, each in the server's own log with its tokens."""
    before = len(server.log)
    found, error = bench_servers(BenchSpec(serve=(server.url,), load=load, **SMALL), home=tmp_path)
    server.until(lambda: len(server.log) == before + 15)
    records = [record for record in server.log[before:] if record["path"] == "/v1/completions"]
    assert error is None
    assert [record["new_tokens"] for record in records] == [5] * 14
    figures = metrics(found)
    assert figures["failed"] == [0, 0]
    assert sum(figures["prompt"]) * 6 == pytest.approx(sum(record["prompt_tokens"] for record in records[2:]))
    assert figures["tokens"] == pytest.approx([5 * rate for rate in figures["answers"]])
    assert all(figures["ttft_p50"][i] <= figures["ttft_p99"][i] <= figures["e2e_p99"][i] for i in range(2))


def test_a_server_of_ours_is_started_and_stopped(toy: Bundle, tmp_path: Path) -> None:
    spec = BenchSpec(serve=(str(toy.root),), load="1,3", **SMALL)
    found, error = bench_servers(spec, home=tmp_path, context=64, threads=1)
    assert error is None
    assert [arm["name"] for arm in found["arms"]] == [f"{toy.name}, 1 client", f"{toy.name}, 3 clients"]
    assert all(value > 0 for value in metrics(found, 1)["processor"] + metrics(found, 1)["rss"])
    assert found["arms"][1]["ratios"]["tokens"]["median"] > 0


def test_errors_are_counted_and_the_other_answers_kept(tmp_path: Path) -> None:
    with flaky() as url:
        found, error = bench_servers(BenchSpec(serve=(url,), load="1", **SMALL), home=tmp_path)
    assert error is None
    assert metrics(found)["failed"] == [3, 3]
    assert metrics(found)["prompt"] == [7, 7]


def test_a_server_that_never_answers_is_said_beside_one_that_does(server: Running, tmp_path: Path) -> None:
    spec = BenchSpec(serve=(server.url, "http://127.0.0.1:9"), load="1", **SMALL)
    found, error = bench_servers(spec, home=tmp_path)
    assert isinstance(error, NetworkError)
    assert [bool(arm["error"]) for arm in found["arms"]] == [False, True]


def test_a_server_without_a_model(tmp_path: Path) -> None:
    class Empty(Flaky):
        models = ()

    with flaky(Empty) as url, pytest.raises(ModelNotFound, match=url):
        bench_servers(BenchSpec(serve=(url,), load="1", **SMALL), home=tmp_path)


def test_nothing_listens(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9"):
        bench_servers(BenchSpec(serve=("http://127.0.0.1:9",), load="1", **SMALL), home=tmp_path)


def test_requests_that_all_fail_are_no_figures(server: Running, tmp_path: Path) -> None:
    spec = BenchSpec(serve=(server.url,), load="1", prompt_tokens="4000", rounds=1, requests=2)
    with pytest.raises(NetworkError, match="context"):
        bench_servers(spec, home=tmp_path)


def test_figures_of_known_replies() -> None:
    """Ten answers, 0.1 … 1.0 s to the first token and 0.1 s for each of two behind it; one error."""
    replies = [Reply(first=i / 10, whole=i / 10 + 0.2, gaps=(0.1, 0.1), prompt=i, new=3) for i in range(1, 11)]
    found = figures_of(Round((*replies, Reply(error="no")), 2.0), first_limit=500, gap_limit=100.001)
    assert found == pytest.approx(
        {
            "tokens": 15,
            "answers": 5,
            "goodput": 2.5,
            "failed": 1,
            "prompt": 5.5,
            **{"ttft_p50": 500, "ttft_p95": 1000, "ttft_p99": 1000, "itl_p50": 100, "itl_p95": 100, "itl_p99": 100},
            **{"e2e_p50": 700, "e2e_p95": 1200, "e2e_p99": 1200},
        }
    )
    assert figures_of(Round(tuple(replies), 2.0), first_limit=5000, gap_limit=99)["goodput"] == 0


def test_loads() -> None:
    assert parse_loads("1, 16,2.5/s") == (Load(1), Load(16), Load(rate=2.5))


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "0/s", "x", "1e3", "2000", "1/m", "1,,2", "99999/s"])
def test_loads_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="--load"):
        BenchSpec(serve=("http://127.0.0.1:9",), load=text)


@pytest.mark.parametrize("options", [{"quality": True}, {"max_slowdown": "5%"}, {"requests": 0}, {"gap_limit": -1.0}])
def test_options_that_do_not_go_with_servers(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BenchSpec(serve=("http://127.0.0.1:9",), **options)
