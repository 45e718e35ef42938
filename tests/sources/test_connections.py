"""The way of the bytes: proxies and certificates of the environment, and connections that are kept."""

from __future__ import annotations

import base64
import hashlib
import http.server
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deepseek_cli.errors import NetworkError
from deepseek_cli.sources.origins import origin_of
from deepseek_cli.sources.wire import RemoteFile, Wire

CONTENT = bytes(range(256)) * 1000
FILE = RemoteFile("model.safetensors", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "")


class Static(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.server.seen.append((self.client_address, self.headers.get("proxy-authorization")))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)


class Proxy(Static):
    """Answers what is asked of it in full as the server itself would, and joins what is to be encrypted."""

    def do_GET(self) -> None:
        assert self.path.startswith("http://hub.example/")
        super().do_GET()

    def do_CONNECT(self) -> None:
        self.server.seen.append((self.path, self.headers.get("proxy-authorization")))  # type: ignore[attr-defined]
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as there:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: there, there: self.connection}
            while readable := select.select(list(ends), [], [], 5)[0]:
                for end in readable:
                    if not (piece := end.recv(65536)):
                        return
                    ends[end].sendall(piece)


@contextmanager
def server(handler: type[Static], tls: ssl.SSLContext | None = None) -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        made.daemon_threads, made.block_on_close = True, False
        made.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that do not trust it leave
        made.seen = []  # type: ignore[attr-defined]
        if tls:
            made.socket = tls.wrap_socket(made.socket, server_side=True)
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of localhost, and trusted by nobody."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    extensions = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:TRUE"]
    subprocess.run(["openssl", *words.split(), *extensions], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "cert.pem"


def fetched(url: str, times: int = 1) -> bytes:
    wire, pieces = Wire(origin_of(url), attempts=1), []
    file = RemoteFile(FILE.path, FILE.size, FILE.digest, f"{url}/file")
    try:
        for _ in range(times):
            pieces.clear()
            wire.fetch(file, 0, file.size, pieces.append)
    finally:
        wire.close()
    return b"".join(pieces)


def test_a_connection_is_kept() -> None:
    with server(Static) as hub:
        assert fetched(f"http://127.0.0.1:{hub.server_port}", times=3) == CONTENT
        assert len({address for address, _ in hub.seen}) == 1 and len(hub.seen) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with server(Proxy) as proxy:
        monkeypatch.setenv(variable, f"http://me:p%40ss@127.0.0.1:{proxy.server_port}")
        assert fetched("http://hub.example") == CONTENT
        words = base64.b64encode(b"me:p@ss").decode()
        assert [said for _, said in proxy.seen] == [f"Basic {words}"]  # type: ignore[attr-defined]


def test_who_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(Static) as hub:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        url = f"http://127.0.0.1:{hub.server_port}"
        with pytest.raises(NetworkError, match="ConnectionRefusedError"):
            fetched(url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert fetched(url) == CONTENT
        assert [said for _, said in hub.seen] == [None]  # type: ignore[attr-defined]


def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(NetworkError, match="a proxy of an unknown kind, socks5"):
        fetched("http://hub.example")


def test_certificates(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with server(Static, tls) as hub, server(Proxy) as proxy:
        url = f"https://localhost:{hub.server_port}"
        with pytest.raises(NetworkError, match="SSLCertVerificationError"):
            fetched(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetched(url) == CONTENT
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")
        assert fetched(url) == CONTENT
        assert [asked for asked, _ in proxy.seen] == [urlsplit(url).netloc]  # type: ignore[attr-defined]
