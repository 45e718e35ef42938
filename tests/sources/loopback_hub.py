"""A hub on this machine that speaks the real protocol, and ModelScope's, and a second origin as its CDN; all may misbehave.

`test_loopback_hub.py` lets the hub's own client download from it, so what is true here is true of a hub. `benchmarks/pull.py`
serves large files with it.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ID, COMMIT = "org/name", "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "loopbacksecret"
PIECE = 16_384
QUICK_PIECE = 1 << 20  # where nothing has to happen between pieces


@dataclass
class Asked:
    origin: str  # hub or cdn
    method: str
    path: str
    headers: Mapping[str, str]
    first: int = 0
    sent: int = 0  # bytes of the body


@dataclass
class Hub:
    """Change any field at any time. `answers` are given to the CDN's next requests, or to the hub's: (status, headers)."""

    files: dict[str, bytes]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main", "v1")
    branches: tuple[str, ...] = ("master", "v1")  # as ModelScope
    page: int = 1000
    private: bool = False
    gated: bool = False
    slow_s: float = 0  # before each piece of the CDN
    stall_after: int | None = None  # bytes, once
    cut: float = 0  # the share of the CDN's answers that break off
    corrupt: float = 0  # and that have a wrong byte
    corrupt_once: set[int] = field(default_factory=set)  # the answers that begin at these bytes are wrong one time
    ranges: bool = True
    redirect: str = ""  # where the CDN sends everybody instead of answering
    tree: dict[str, dict[str, Any]] = field(default_factory=dict)  # what the listing says otherwise, by path
    hub_answers: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    cdn_answers: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    random: random.Random = field(default_factory=lambda: random.Random(7))
    url: str = ""
    cdn: str = ""
    digests: dict[int, tuple[bytes, str, str]] = field(default_factory=dict)

    def sent(self, origin: str = "cdn") -> int:
        return sum(asked.sent for asked in self.asked if asked.origin == origin)

    def entry(self, path: str) -> dict[str, Any]:
        content = self.files.get(path, b"")
        sha256, sha1 = self.digests_of(content)
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": sha1}
        if is_large(path):
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        return entry | self.tree.get(path, {})

    def digests_of(self, content: bytes) -> tuple[str, str]:
        """sha256 and git's sha1, counted once: large files are asked for often."""
        if id(content) not in self.digests:
            self.digests[id(content)] = (content, hashlib.sha256(content).hexdigest(), git_sha1(content))
        return self.digests[id(content)][1:]

    def entries_in(self, folder: str) -> Iterator[dict[str, Any]]:
        """As ModelScope lists one folder: every file has a sha256."""
        inside = f"{folder}/" if folder else ""
        below = {path.removeprefix(inside) for path in {*self.files, *self.tree} if path.startswith(inside)}
        for name in sorted({path.split("/")[0] for path in below}):
            path = inside + name
            if path in self.files or path in self.tree:
                content = self.files.get(path, b"")
                entry = {"Name": name, "Path": path, "Type": "blob", "Size": len(content), "Sha256": self.digests_of(content)[0]}
                yield entry | self.tree.get(path, {})
            else:
                yield {"Name": name, "Path": path, "Type": "tree", "Size": 0, "Sha256": ""}


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def git_sha1(content: bytes) -> str:
    digest = hashlib.sha1(f"blob {len(content)}\0".encode())
    digest.update(content)
    return digest.hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    servers = [_Server(("127.0.0.1", 0), handler) for handler in (_HubHandler, _CdnHandler)]
    threads = []
    for server in servers:
        server.hub = hub
        threads.append(threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True))
        threads[-1].start()
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


class _Server(ThreadingHTTPServer):
    hub: Hub
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Clients may leave when they like."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    origin = ""
    server: _Server

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub = self.server.hub
        self.asked = Asked(self.origin, self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        self.hub.asked.append(self.asked)
        planned = self.hub.hub_answers if self.origin == "hub" else self.hub.cdn_answers
        if planned:
            status, headers = planned.popleft()
            self.answer(status, headers)
        else:
            self.serve()

    def serve(self) -> None:
        raise NotImplementedError

    def answer(self, status: int, headers: Mapping[str, str], body: bytes | memoryview = b"") -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            self.asked.sent = len(body)

    def ranged(self, content: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes | memoryview]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.asked.headers.get("range", ""))
        if not match or not self.hub.ranges:
            return 200, dict(headers), content
        first, last = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
        if first >= len(content):
            return 416, {"content-range": f"bytes */{len(content)}"}, b""
        self.asked.first = first
        return 206, {**headers, "content-range": f"bytes {first}-{last}/{len(content)}"}, memoryview(content)[first : last + 1]


class _HubHandler(_Handler):
    origin = "hub"

    def serve(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        knows = self.asked.headers.get("authorization") == f"Bearer {TOKEN}"
        if path.startswith("/api/v1/"):
            return self.modelscope(path, {name: values[0] for name, values in parse_qs(parts.query).items()}, knows)
        if not re.match(rf"(/api/models|/api/resolve-cache/models)?/{ID}(/|$)", path):
            return self.answer(404 if knows else 401, {"x-error-code": "RepoNotFound"})
        if self.hub.private and not knows:
            return self.answer(401, {"x-error-code": "RepoNotFound"})
        if match := re.fullmatch(rf"/api/models/{ID}(/revision/(.+))?", path):
            return self.info(match[2] or "main")
        if match := re.fullmatch(rf"/api/models/{ID}/tree/(\w+)", path):
            return self.listing(parse_qs(parts.query))
        if match := re.fullmatch(rf"(/api/resolve-cache/models)?/{ID}(/resolve)?/([^/]+)/(.+)", path):
            if self.hub.gated and not knows:
                return self.answer(401, {"x-error-code": "GatedRepo"})
            return self.file(match[4], relative=not match[1])
        return self.answer(404, {})

    def modelscope(self, path: str, query: Mapping[str, str], knows: bool) -> None:
        if not path.startswith(f"/api/v1/models/{ID}/repo") or query.get("Revision") not in self.hub.branches:
            return self.answer(404, {})
        if self.hub.private and not knows:
            return self.answer(403, {})
        if path.endswith("/repo/files"):
            files = list(self.hub.entries_in(query.get("Root", "")))
            body = json.dumps({"Code": 200, "Success": True, "Data": {"Files": files}})
            return self.answer(200, {"content-type": "application/json"}, body.encode())
        wanted = query.get("FilePath", "")
        if wanted not in self.hub.files:
            return self.answer(404, {})
        content = self.hub.files[wanted]
        if is_large(wanted):
            return self.to_cdn(content, {})
        return self.answer(200, {"content-type": "application/octet-stream"}, content)  # knows no ranges

    def info(self, revision: str) -> None:
        if revision not in (*self.hub.revisions, self.hub.commit):
            return self.answer(404, {"x-error-code": "RevisionNotFound"})
        info = {"id": ID, "modelId": ID, "sha": self.hub.commit, "private": self.hub.private, "gated": False, "siblings": []}
        return self.answer(200, {"content-type": "application/json"}, json.dumps(info).encode())

    def listing(self, query: Mapping[str, list[str]]) -> None:
        start = int(query.get("cursor", ["0"])[0])
        paths = sorted({*self.hub.files, *self.hub.tree})
        page = [self.hub.entry(path) for path in paths[start : start + self.hub.page]]
        more = start + self.hub.page < len(paths)
        here = f"{self.hub.url}{urlsplit(self.path).path}"
        link = {"link": f'<{here}?recursive=true&cursor={start + self.hub.page}>; rel="next"'} if more else {}
        return self.answer(200, {"content-type": "application/json", **link}, json.dumps(page).encode())

    def file(self, path: str, relative: bool) -> None:
        if path not in self.hub.files:
            return self.answer(404, {"x-error-code": "EntryNotFound"})
        content, common = self.hub.files[path], {"x-repo-commit": self.hub.commit, "accept-ranges": "bytes"}
        if is_large(path):
            return self.to_cdn(content, common)
        if relative:
            return self.answer(307, {**common, "location": f"/api/resolve-cache/models/{ID}/{self.hub.commit}/{path}"})
        status, headers, body = self.ranged(content, {**common, "etag": f'"{self.hub.digests_of(content)[1]}"'})
        return self.answer(status, headers, body) if self.command == "GET" else self.head(status, headers, body)

    def to_cdn(self, content: bytes, headers: Mapping[str, str]) -> None:
        digest = self.hub.digests_of(content)[0]
        location = f"{self.hub.cdn}/{digest}?signature=secret"
        linked = {"location": location, "x-linked-etag": f'"{digest}"', "x-linked-size": str(len(content))}
        self.answer(302, {**headers, **linked})

    def head(self, status: int, headers: Mapping[str, str], body: bytes | memoryview) -> None:
        self.answer(status, {**headers, "content-length": str(len(body))})


class _CdnHandler(_Handler):
    origin = "cdn"

    def serve(self) -> None:
        hub = self.hub
        if hub.redirect:
            return self.answer(302, {"location": hub.redirect})
        digest = urlsplit(self.path).path.lstrip("/")
        content = next((c for c in list(hub.files.values()) if hub.digests_of(c)[0] == digest), None)
        if content is None:
            return self.answer(403, {})
        status, headers, body = self.ranged(content, {"etag": f'"{digest}"'})
        if hub.random.random() < hub.corrupt or self.asked.first in hub.corrupt_once:
            hub.corrupt_once.discard(self.asked.first)
            at = hub.random.randrange(max(1, len(body)))
            body = bytes(body[:at]) + bytes([body[at] ^ 1]) + body[at + 1 :]
        end = hub.random.randrange(len(body)) if body and hub.random.random() < hub.cut else len(body)
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        piece = PIECE if hub.slow_s or hub.stall_after is not None else QUICK_PIECE
        for start in range(0, end, piece):
            time.sleep(hub.slow_s)
            if hub.stall_after is not None and start >= hub.stall_after:
                hub.stall_after = None
                time.sleep(3)
                break
            self.wfile.write(body[start : min(end, start + piece)])
            self.asked.sent = min(end, start + piece)
        if self.asked.sent < len(body):
            self.close_connection = True
        return None
