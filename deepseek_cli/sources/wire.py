"""Ranges of a hub's files over HTTP: redirects, retries, stalls, limits. Only the hub itself is shown the user's token."""

from __future__ import annotations

import contextlib
import email.utils
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from deepseek_cli.errors import ModelCorrupt, ModelNotFound, NetworkError
from deepseek_cli.sources.connections import PORTS, Answer, Broken, Connections, host_of
from deepseek_cli.sources.origins import Origin

ASK_AGAIN_S = (1, 3)  # waits between the questions about one repository
ANSWER_S = 15
MAX_REDIRECTS = 20
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`digest` is the sha256 that the hub states for large files, or git's sha1 of a blob, which is the shorter."""

    path: str
    size: int
    digest: str
    url: str


@dataclass(frozen=True, slots=True)
class Patience:
    """When a connection is given up, and how often another is tried without a byte between."""

    silent_s: float = 10
    window_s: float = 20
    low_bytes: int = 20_000  # fewer in a window is a stall
    attempts: int = 6
    first_wait_s: float = 0.5
    longest_wait_s: float = 30
    longest_order_s: float = 300  # of the hub's own Retry-After


class Stopped(Exception):
    """Another thread failed, or the user interrupted."""


class _Again(Exception):
    """This answer may be better next time; `wait_s` is what the server asked for."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Throttle:
    """At most `rate` bytes a second for all threads together, until `stop` is set."""

    def __init__(self, rate: int | None = None) -> None:
        self.rate, self.stop = rate, threading.Event()
        self._lock, self._free_at = threading.Lock(), 0.0

    def pay(self, count: int) -> float:
        """Seconds waited."""
        if not self.rate:
            return 0.0
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + count / self.rate
            wait = self._free_at - now
        self.stop.wait(wait)
        return wait


class Wire:
    """One origin, and one client for all threads. The headers of a home go to that origin only, the token among them."""

    def __init__(
        self, origin: Origin, hub_id: str = "", *, throttle: Throttle | None = None, attempts: int | None = None
    ) -> None:
        self.origin, self.endpoint, self.hub_id = origin, origin.endpoint, hub_id
        self.headers = origin.headers()
        self.note: Callable[..., None] = lambda message, **facts: None
        self.patience = Patience(attempts=attempts) if attempts else Patience()
        self.throttle = throttle or Throttle()
        self.stop = self.throttle.stop
        self.connections = Connections(self.patience.silent_s)
        self._found: dict[str, str] = {}  # where the hub sent us for a file
        self._ordered = 0.0  # no request before this moment: the hub asked for a pause

    def close(self) -> None:
        self.stop.set()
        self.connections.close()

    def fetch(self, file: RemoteFile, start: int, end: int, put: Callable[[bytes], Any]) -> None:
        """Hand bytes `start` to `end` to `put`, in order; a connection that breaks is taken up where it broke.

        Raises NetworkError when nothing more comes, ModelNotFound when the hub refuses, ModelCorrupt when it lied, Stopped.
        """
        position, failures = start, 0
        while position < end:
            before = position
            try:
                for piece in self._pieces(file, position, end):
                    put(piece)
                    position += len(piece)
            except (Broken, _Again) as error:
                failures = 1 if position - before >= self.patience.low_bytes else failures + 1
                self._found.pop(file.url, None)
                if failures >= self.patience.attempts:
                    raise self._given_up(file, error) from None
                self._wait(file, failures, error)

    def _pieces(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        with self._answer(file, {"range": f"bytes={start}-{end - 1}"}) as response:
            skip = self._check(file, response, start)
            left, since, seen = end - start, time.monotonic(), 0
            while piece := response.read():
                if self.stop.is_set():
                    raise Stopped
                seen += len(piece)
                useful = piece[skip:][:left]
                skip, left = max(0, skip - len(piece)), left - len(useful)
                since += self.throttle.pay(len(piece))
                if useful:
                    yield useful
                if not left:
                    return
                if time.monotonic() - since > self.patience.window_s:
                    if seen < self.patience.low_bytes:
                        raise _Again("stalled")
                    since, seen = time.monotonic(), 0
            raise _Again("cut off")

    @contextlib.contextmanager
    def _answer(self, file: RemoteFile, more: Mapping[str, str]) -> Iterator[Answer]:
        """The answer behind all redirects. Headers of ours stay with the hub's origin."""
        url = self._found.get(file.url, file.url)
        for _ in range(MAX_REDIRECTS):
            own = self.headers if host_of(url) == host_of(self.endpoint) else {"user-agent": self.headers["user-agent"]}
            self._pause(self._ordered - time.monotonic())
            headers = {**own, **more, "accept-encoding": "identity"}  # the digest is of the bytes as they are
            response = self.connections.get(url, headers)
            try:
                location = response.headers.get("location")
                if not (300 <= response.status < 400 and location):
                    self._found[file.url] = url
                    yield response
                    return
                url = self._redirected(file, url, location)
            finally:
                response.close()
        raise NetworkError("{endpoint} redirects {file} without an end.", **self._facts(file))

    def _redirected(self, file: RemoteFile, url: str, location: str) -> str:
        try:
            target = quote(urljoin(url, location), safe="%/:=&?~#+!$,;'@()*[]")
            found = urlsplit(target)
            host_of(target)
        except ValueError:
            raise NetworkError("{endpoint} redirects {file} to what is no address.", **self._facts(file)) from None
        downgraded = urlsplit(url).scheme == "https" and found.scheme != "https" and found.hostname not in LOOPBACK
        if found.scheme not in PORTS or not found.hostname or downgraded:
            raise NetworkError(
                "{endpoint} sends us for {file} to {scheme}://{host}, which is refused.",
                hint="The connection would no longer be encrypted. Name another mirror with --source URL.",
                scheme=found.scheme,
                host=found.hostname,
                **self._facts(file),
            )
        return target

    def _check(self, file: RemoteFile, response: Answer, start: int) -> int:
        """How many bytes to skip: an answer of 200 begins at the first. Raises for every other answer than 206."""
        status, headers = response.status, response.headers
        if status in TRY_AGAIN or (status in (401, 403, 404, 410) and host_of(response.url) != host_of(self.endpoint)):
            raise _Again(f"HTTP {status}", _ordered_wait(headers))  # a signed address that has run out gives 403
        if status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", ""))
            if not match or int(match[1]) != start:
                raise _Again("another range than asked for")
            total, skip = match[2], 0
        elif status == 200:
            total, skip = headers.get("content-length", "*"), start
        elif status == 416:
            total, skip = "fewer", 0
        else:
            raise self._refusal(file, status, headers)
        if total != "*" and total != str(file.size):
            raise ModelCorrupt(
                "{endpoint} announces {size} bytes for {file} and serves {total}.",
                hint="Do not use this repository, or try another source.",
                size=file.size,
                total=total,
                **self._facts(file),
            )
        return skip

    def _refusal(self, file: RemoteFile, status: int, headers: Mapping[str, str]) -> Exception:
        if headers.get("x-error-code") == "GatedRepo" or status == 403:
            return gated(self.origin, self.hub_id)
        if status == 401:
            return not_found("authorization" in self.headers, self.origin, self.hub_id)
        if status == 404:
            return ModelNotFound("{endpoint} lists {file} and does not have it.", hint="Try again later.", **self._facts(file))
        hint = "Try again later, or name a mirror with --source URL."
        return NetworkError("{endpoint} answers HTTP {status} for {file}.", hint=hint, status=status, **self._facts(file))

    def _wait(self, file: RemoteFile, failures: int, error: Exception) -> None:
        patience = self.patience
        asked = getattr(error, "wait_s", None)
        if asked is not None:
            asked = min(asked, patience.longest_order_s)
            if asked > 1 and time.monotonic() > self._ordered:
                self.note("{endpoint} asks us to wait {seconds} s.", endpoint=self.endpoint, seconds=round(asked))
            self._ordered = max(self._ordered, time.monotonic() + asked)
        longest = min(patience.longest_wait_s, patience.first_wait_s * 2 ** (failures - 1))
        self._pause(random.uniform(0.5, 1) * longest)

    def _pause(self, seconds: float) -> None:
        if self.stop.wait(max(0.0, seconds)):
            raise Stopped

    def _given_up(self, file: RemoteFile, error: Exception) -> NetworkError:
        return NetworkError(
            "{endpoint} gives no more of {file}: {reason}.",
            hint="Run the same command again: it goes on where it stopped. Or name a mirror with --source URL.",
            reason=error,
            **self._facts(file),
        )

    def _facts(self, file: RemoteFile) -> dict[str, Any]:
        return {"endpoint": self.endpoint, "file": file.path}


def _ordered_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds from Retry-After (a count or a date), or from the hub's own RateLimit."""
    text = headers.get("retry-after", "")
    if text.isdigit():
        return float(text)
    if text:
        with contextlib.suppress(ValueError, TypeError):
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    match = re.search(r";\s*t=(\d+)", headers.get("ratelimit", ""))
    return float(match[1]) + 1 if match else None


def dishonest(ref: str, what: str, value: object) -> ModelCorrupt:
    hint = "Do not use this repository, or try another source."
    return ModelCorrupt("{ref}: {what} cannot be {value!r}.", hint=hint, ref=ref, what=what, value=str(value)[:80])


def gated(origin: Origin, hub_id: str) -> ModelNotFound:
    facts = {"scheme": origin.scheme, "id": hub_id, "endpoint": origin.endpoint, "token": origin.token}
    return ModelNotFound("{scheme}:{id} is gated.", hint="Accept its terms at {endpoint}/{id} and set {token}.", **facts)


def not_found(with_token: bool, origin: Origin, hub_id: str) -> ModelNotFound:
    """Hubs do not say which of the two it is, lest they give private names away."""
    facts = {"id": hub_id, "endpoint": origin.endpoint, "token": origin.token}
    if with_token:
        return ModelNotFound(
            "{endpoint} has no model {id}, or it is private and not for your token.",
            hint="Check the name, and what {token} may read.",
            **facts,
        )
    return ModelNotFound(
        "{endpoint} has no model {id}, or it is private.", hint="Check the name; for a private one set {token}.", **facts
    )
