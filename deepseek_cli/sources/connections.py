"""HTTP connections for large bodies: kept open, through the proxies of the environment, handing over whatever one read brings.

The standard library's client, since a layered one spends several times as long on a byte as the digest does.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

READ_BYTES = 1 << 18  # more costs pages that the system has to make for each read
FAILURES = (OSError, http.client.HTTPException, UnicodeError)  # timeouts, refusals, answers that are none, impossible hosts
PORTS = {"http": 80, "https": 443}


class Broken(Exception):
    """The connection failed, as against the disk that its bytes go to."""


Host = tuple[str, "str | None", "int | None"]


def host_of(url: str) -> Host:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)


class Answer:
    """The names of `headers` are in small letters. To be closed, read or not."""

    def __init__(self, pool: Connections, url: str, connection: http.client.HTTPConnection) -> None:
        self.pool, self.url, self.connection = pool, url, connection
        self.response = connection.getresponse()
        self.status = self.response.status
        self.headers = {name.lower(): value for name, value in self.response.headers.items()}

    def read(self) -> bytes:
        """What has come, and at the end nothing."""
        try:
            return self.response.read1(READ_BYTES)
        except FAILURES as error:
            raise Broken(type(error).__name__) from error

    def close(self) -> None:
        whole = self.response.length == 0 and not self.response.will_close
        self.response.close()
        if whole:
            self.pool.keep(self.url, self.connection)
        else:
            self.connection.close()


class Connections:
    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.proxies = urllib.request.getproxies()
        self._lock, self._closed = threading.Lock(), False
        self._idle: dict[Host, list[http.client.HTTPConnection]] = defaultdict(list)
        self._tls: ssl.SSLContext | None = None

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Raises Broken."""
        parts = urlsplit(url)
        proxy = self._proxy(parts)
        path, own = parts._replace(scheme="", netloc="", fragment="").geturl() or "/", {}
        if proxy and parts.scheme == "http":  # it is asked for the whole address; what is encrypted goes through a tunnel
            path, own = parts._replace(fragment="").geturl(), _authorization(proxy)
        with self._lock:
            kept = self._idle[host_of(url)].pop() if self._idle[host_of(url)] else None
        if kept:
            try:
                return self._ask(kept, url, path, {**own, **headers})
            except Broken:  # it was kept for too long
                pass
        return self._ask(self._open(parts, proxy), url, path, {**own, **headers})

    def _ask(self, connection: http.client.HTTPConnection, url: str, path: str, headers: Mapping[str, str]) -> Answer:
        try:
            connection.request("GET", path, headers=headers)
            return Answer(self, url, connection)
        except FAILURES as error:
            connection.close()
            raise Broken(type(error).__name__) from error

    def keep(self, url: str, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed:
                return self._idle[host_of(url)].append(connection)
        return connection.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()

    def _proxy(self, parts: SplitResult) -> SplitResult | None:
        address = self.proxies.get(parts.scheme) or self.proxies.get("all")
        if not address or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
            return None
        proxy = urlsplit(address if "://" in address else f"http://{address}")
        if proxy.scheme != "http" or not proxy.hostname:
            raise Broken(f"a proxy of an unknown kind, {proxy.scheme}")
        return proxy

    def _open(self, parts: SplitResult, proxy: SplitResult | None) -> http.client.HTTPConnection:
        assert parts.hostname
        via = proxy or parts
        host, port = str(via.hostname), via.port or PORTS[via.scheme]
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self.timeout_s)
        connection = http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=self._context())
        if proxy:
            connection.set_tunnel(parts.hostname, parts.port or PORTS["https"], _authorization(proxy))
        return connection

    def _context(self) -> ssl.SSLContext:
        """The certificates that the hub's own client trusts, SSL_CERT_FILE and SSL_CERT_DIR among them."""
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

        with self._lock:
            self._tls = self._tls or httpx.create_ssl_context()
            return self._tls


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"proxy-authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}
