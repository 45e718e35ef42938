"""Whatever comes: the documented status and body, never a 500, and nobody else disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import warnings
from typing import Any

import httpx2 as httpx
import pytest

from deepseek_cli.handle import Bundle
from deepseek_cli.serve import connections
from deepseek_cli.serve.app import make_app
from deepseek_cli.serve.gate import Limits
from deepseek_cli.serve.server import Place
from deepseek_cli.serve.service import Rules
from tests.serve.conftest import PATIENCE, Running, running

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "Hi"}]


def post(server: Running, path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(server.url + path, content=content, headers={"content-type": "application/json"})


def schema_form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


BAD: dict[str, tuple[str, Any, int, str | None]] = {
    "not JSON": (CHAT, b"{", 400, None),
    "empty": (CHAT, b"", 400, None),
    "not UTF-8": (CHAT, b'{"messages": "\xff\xfe"}', 400, None),
    "a list": (CHAT, [], 400, None),
    "nested deeply": (CHAT, b"[" * 100_000, 400, None),
    "a huge number": (CHAT, b'{"messages": ' + b"9" * 10_000 + b"}", 400, None),
    "no messages": (CHAT, {}, 400, "messages"),
    "empty messages": (CHAT, {"messages": []}, 400, "messages"),
    "a role": (CHAT, {"messages": [{"role": "king", "content": "x"}]}, 400, "messages.0.role"),
    "an image": (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, None),
    "an unknown field": (CHAT, {"messages": USER, "colour": 1}, 400, "colour"),
    "another model": (CHAT, {"messages": USER, "model": "gpt-9"}, 404, "model"),
    "temperature": (CHAT, {"messages": USER, "temperature": 99}, 400, "temperature"),
    "a string for a number": (CHAT, {"messages": USER, "temperature": "1"}, 400, "temperature"),
    "NaN": (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "top_p": NaN}', 400, "top_p"),
    "max_tokens": (CHAT, {"messages": USER, "max_tokens": 0}, 400, "max_tokens"),
    "n": (CHAT, {"messages": USER, "n": 1000}, 400, "n"),
    "an empty stop": (CHAT, {"messages": USER, "stop": [""]}, 400, None),
    "tools that the template lacks": (
        CHAT, {"messages": USER, "tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools"
    ),
    "a schema that is none": (
        CHAT,
        {"messages": USER, "response_format": schema_form({"type": "blob"})},
        400,
        None,
    ),
    "a schema of a file": (CHAT, {"messages": USER, "response_format": schema_form({"$ref": "file:///etc/hosts"})}, 400, None),
    "a pattern that is none": (
        CHAT, {"messages": USER, "response_format": schema_form({"type": "string", "pattern": "(("})}, 400, None
    ),
    "no schema": (CHAT, {"messages": USER, "response_format": {"type": "json_schema"}}, 400, "response_format"),
    "an empty prompt": (TEXT, {"prompt": ""}, 400, "prompt"),
    "no such token": (TEXT, {"prompt": [100_000]}, 400, "prompt"),
    "a negative token": (TEXT, {"prompt": [-1]}, 400, None),
    "beyond the context": (TEXT, {"prompt": "x" * 10_000}, 400, "prompt"),
    "a bias for no token": (TEXT, {"prompt": "x", "logit_bias": {"99999": 1}}, 400, "logit_bias"),
    "an empty text to embed": ("/v1/embeddings", {"input": ["x", ""]}, 400, "input"),
    "no such path": ("/v1/nothing", {}, 404, None),
    "too large": (CHAT, b'"' + b"x" * 5_000_000, 413, None),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(server: Running, name: str) -> None:
    path, body, status, param = BAD[name]
    found = post(server, path, body)
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["message"]
    if param:
        assert error["param"] == param


def test_text_that_is_no_unicode_is_answered(server: Running) -> None:
    body = b'{"messages": [{"role": "user", "content": "\\ud800 x"}], "max_tokens": 2}'
    assert post(server, CHAT, body).status_code == 200
    assert post(server, CHAT, b'{"messages": [{"role": "user", "content": "x"}], "model": "\\ud800"}').status_code == 404


def test_what_is_nearly_cold_is_cold(server: Running) -> None:
    ask = {"prompt": "abc", "max_tokens": 8}
    texts = [post(server, TEXT, {**ask, "temperature": t}).json()["choices"][0]["text"] for t in (0, 1e-300, 1e-30)]
    assert len(set(texts)) == 1


def test_the_wrong_method_and_type(server: Running) -> None:
    assert httpx.get(server.url + CHAT).status_code == 405
    assert httpx.post(server.url + CHAT, content=b"{}", headers={"content-type": "text/plain"}).status_code == 400


def test_a_page_elsewhere_cannot_reach_a_server_without_keys(server: Running) -> None:
    for host, status in (("evil.example", 403), ("evil.example:80", 403), ("localhost:9", 200), ("127.0.0.1", 200)):
        assert httpx.get(f"{server.url}/v1/models", headers={"host": host}).status_code == status


def test_a_queue_has_an_end(toy: Bundle) -> None:
    with running(toy, rules=Rules(queue=3)) as server:
        found = post(server, TEXT, {"prompt": "x", "n": 4, "max_tokens": 2})
        assert (found.status_code, found.json()["error"]["code"]) == (429, "overloaded")
        assert int(found.headers["retry-after"]) >= 1
        assert post(server, TEXT, {"prompt": "x", "n": 3, "max_tokens": 2}).status_code == 200


def test_a_request_ends_in_time(toy: Bundle) -> None:
    with running(toy, rules=Rules(seconds=1e-9)) as server:
        assert post(server, TEXT, {"prompt": "x"}).status_code == 408
        stream = post(server, TEXT, {"prompt": "x", "stream": True})
        assert '"code":"request_timeout"' in stream.text


def test_a_slow_writer_is_told_and_a_broken_one_forgotten(toy: Bundle) -> None:
    with running(toy, Place(limits=Limits(body_seconds=0.05))) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", server.port)) as broken:
            broken.sendall(b"\x00\xff nonsense\r\n\r\n")
            assert broken.recv(100).startswith(b"HTTP/1.1 400")
        assert post(server, "/generate", {"prompt": "x", "max_length": 1}).status_code == 200


def test_what_is_no_http_is_told_so_in_json(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\ncontent-length: -5\r\n\r\n")
        head, _, body = b"".join(iter(lambda: client.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "invalid_http"


def test_half_a_head_is_not_waited_for(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
    whole = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for began in (b"", b"GET / HTTP/1.1\r\nhost: ", whole):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            client.sendall(began)
            if began == whole:
                assert client.recv(4096).startswith(b"HTTP/1.1 200")
                client.sendall(b"GET /")
            with contextlib.suppress(ConnectionResetError):
                while client.recv(4096):
                    pass


def test_a_flood_of_connections_stops_nobody(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 16)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(40)]
        assert post(server, "/generate", {"prompt": "x", "max_length": 1}).status_code == 200
        gone = 0
        for client in idle:
            client.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                gone += not _received(client)
        assert gone >= 40 - 16


def _received(client: socket.socket) -> bytes:
    try:
        return client.recv(1)
    except ConnectionResetError:
        return b""


def test_a_slow_reader_holds_nobody_up_and_is_given_up(toy: Bundle) -> None:
    """One that takes the beginning of its answer and nothing more, which the server's side of a full connection looks like."""
    body, taken, log = json.dumps({"prompt": "x", "stream": True}).encode(), list[str](), list[dict[str, Any]]()

    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not sent:
            await asyncio.Event().wait()
        return sent.pop()

    async def send(message: dict[str, Any]) -> None:
        taken.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "method": "POST", "path": TEXT, "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost"), (b"content-type", b"application/json")]}
    with running(toy, rules=Rules(new_tokens=20)) as server:
        gate = make_app(server.service, (), Limits(send_seconds=0.5), log.append)
        assert server.service.loop
        slow = asyncio.run_coroutine_threadsafe(gate(scope, receive, send), server.service.loop)
        server.until(lambda: len(taken) == 2)
        assert post(server, TEXT, {"prompt": "y", "max_tokens": 20}).status_code == 200
        slow.result(PATIENCE)
        server.until(lambda: not server.service.engine.seats.taken)
    assert taken == ["http.response.start", "http.response.body"]
    assert [record["status"] for record in log] == [200]


def test_what_the_document_says_is_what_happens(server: Running) -> None:
    """Schemathesis: requests drawn from the OpenAPI document, right ones and wrong ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        import schemathesis
        from hypothesis import HealthCheck, Phase, given, settings
        from schemathesis.checks import not_a_server_error
        from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for operation in schema.get_all_operations():

            @given(case=operation.ok().as_strategy())
            @settings(
                max_examples=3,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def holds(case: Any) -> None:
                if isinstance(case.body, dict):
                    limit = "max_length" if case.path == "/generate" else "max_tokens"
                    case.body = {**case.body, **({limit: 2} if "input" not in case.body else {})}
                response = case.call()
                case.validate_response(
                    response, checks=[not_a_server_error, status_code_conformance, response_schema_conformance]
                )

            holds()
