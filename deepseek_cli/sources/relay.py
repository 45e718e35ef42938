"""Files from several origins: where one fails, the next goes on at the same byte. Digests decide in the end, so bytes may mix."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from deepseek_cli.errors import DeepseekError, ModelCorrupt, ModelNotFound, NetworkError
from deepseek_cli.sources.listing import Listing, read_tree
from deepseek_cli.sources.origins import Origin
from deepseek_cli.sources.wire import RemoteFile, Throttle, Wire

ATTEMPTS = 2  # of one origin, where there is another to turn to
ROUNDS = 3  # through all origins without a byte between


class Lane:
    """One origin. The first one stated the digests; the others are mirrors, and are asked before a byte comes from them."""

    def __init__(self, wire: Wire, listing: Listing, origin: Origin) -> None:
        self.wire, self.origin, self.hub_id, self.revision = wire, origin, listing.hub_id, listing.revision_of(origin)
        self.is_mirror = origin is not listing.origins[0]
        self.refused: dict[str, DeepseekError] = {}  # by path: what it does not have as it should be
        self._lock = threading.Lock()
        self._stated: dict[str, tuple[int, str]] | None = None

    def has(self, file: RemoteFile) -> bool:
        """Raises NetworkError where the mirror does not say."""
        if not self.is_mirror:
            return True
        with self._lock:
            if self._stated is None:
                self._stated = self._ask()
        size, digest = self._stated.get(file.path, (-1, ""))
        return size == file.size and (digest == file.digest or len(digest) != len(file.digest))  # git's sha1 is no sha256

    def _ask(self) -> dict[str, tuple[int, str]]:
        try:
            _, files = read_tree(self.origin, self.hub_id, self.revision)
        except ModelNotFound:
            return {}
        return {file.path: (file.size, str(file.digest)) for file in files}

    def remote(self, file: RemoteFile) -> RemoteFile:
        address = self.origin.address(self.hub_id, self.revision, file.path) if self.is_mirror else file.url
        return RemoteFile(file.path, file.size, file.digest, address)


class Relay:
    """The origins of a listing, in the order to try them: one that fails goes to the end of the line."""

    def __init__(self, listing: Listing, max_rate: int | None = None) -> None:
        self.throttle = Throttle(max_rate)
        self.stop, self.endpoint = self.throttle.stop, listing.endpoint
        self.note: Callable[..., None] = lambda message, **facts: None
        self._lock = threading.Lock()
        attempts, self.rounds = (ATTEMPTS, ROUNDS) if len(listing.origins) > 1 else (None, 1)
        self.lanes = []
        for origin in listing.origins:
            wire = Wire(origin, listing.hub_id, throttle=self.throttle, attempts=attempts)
            wire.note = lambda message, **facts: self.note(message, **facts)
            self.lanes.append(Lane(wire, listing, origin))
        self.first = self.lanes[0]

    def close(self) -> None:
        for lane in self.lanes:
            lane.wire.close()

    def fetch(self, file: RemoteFile, start: int, end: int, put: Callable[[bytes], Any]) -> None:
        """As `Wire.fetch`, from whichever origin gives. Where none does, raises what the first failure was."""
        position, failures = start, 0
        failure: DeepseekError | None = None

        def count(piece: bytes) -> None:
            nonlocal position
            put(piece)
            position += len(piece)

        while lanes := self._open_to(file):
            lane, before = lanes[0], position
            try:
                if lane.has(file):
                    return lane.wire.fetch(lane.remote(file), position, end, count)
                self._refuse(lane, file, self._differs(lane, file))
            except NetworkError as error:
                failure, gained = failure or error, position - before >= lane.wire.patience.low_bytes
                failures = 1 if gained else failures + 1
                if failures >= self.rounds * len(lanes):
                    break
                if len(lanes) > 1:
                    self._demote(lane, lanes[1], error)
            except (ModelNotFound, ModelCorrupt) as error:
                failure = failure or error
                self._refuse(lane, file, error)
        raise failure or self.first.refused[file.path]

    def leave_out(self, file: RemoteFile) -> bool:
        """What came does not have the file's digest: whether there is another origin to take it from instead."""
        lane, *others = self._open_to(file)
        if others:
            self._refuse(lane, file, self._differs(lane, file))
        return bool(others)

    def _open_to(self, file: RemoteFile) -> list[Lane]:
        return [lane for lane in self.lanes if file.path not in lane.refused]

    def _refuse(self, lane: Lane, file: RemoteFile, error: DeepseekError) -> None:
        with self._lock:
            known = lane.refused.setdefault(file.path, error) is not error
        if not known and len(self.lanes) > 1:
            message = "{endpoint} does not have {file} as it should be: it is left out for this file."
            self.note(message, endpoint=lane.origin.endpoint, file=file.path)

    def _demote(self, lane: Lane, following: Lane, error: DeepseekError) -> None:
        with self._lock:
            known = self.lanes[-1] is lane
            self.lanes = [*(other for other in self.lanes if other is not lane), lane]
        if not known:
            reason = error.facts.get("reason") or error.code
            message = "{endpoint} fails: {reason}. Going on with {following}."
            self.note(message, endpoint=lane.origin.endpoint, reason=reason, following=following.origin.endpoint)

    def _differs(self, lane: Lane, file: RemoteFile) -> ModelCorrupt:
        hint = "Try another source, or tell whoever keeps the repository."
        return ModelCorrupt("{endpoint} has another {file}.", hint=hint, endpoint=lane.origin.endpoint, file=file.path)
