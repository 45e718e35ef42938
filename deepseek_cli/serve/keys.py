"""Who may ask, what for, and how often: a file of keys, one a line."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deepseek_cli.errors import UsageError
from deepseek_cli.serve.failures import Refused

ROLES = ("use", "admin")
SHORTEST = 16  # characters of a key
MINUTE = 60.0


@dataclass
class Key:
    """`rate` is requests a minute, 0 for any number. Only the key's digest is kept."""

    name: str
    digest: bytes
    role: str = "use"
    rate: int = 0
    allowance: float = field(default=0.0, init=False)
    since: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        self.allowance = float(self.rate)

    def spend(self) -> None:
        """Count a request. Raises Refused (429) beyond the rate."""
        if not self.rate:
            return
        now = time.monotonic()
        self.allowance = min(self.rate, self.allowance + (now - self.since) * self.rate / MINUTE)
        self.since = now
        if self.allowance < 1:
            wait = (1 - self.allowance) * MINUTE / self.rate
            raise Refused(429, "This key's requests per minute are used up.", code="rate_limit_exceeded", retry_after=wait)
        self.allowance -= 1


def read_keys(file: Path) -> list[Key]:
    """Lines of `KEY [NAME [use|admin [REQUESTS_PER_MINUTE]]]`; `#` begins a comment. Raises UsageError."""
    keys = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("{file} cannot be read: {reason}", hint="Write one key a line.", file=file, reason=error) from None
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if words:
            keys.append(_read_key(words, file, number))
    if not keys:
        raise UsageError("{file} holds no key.", hint="Write one key a line.", file=file)
    return keys


def _read_key(words: Sequence[str], file: Path, number: int) -> Key:
    secret, name, role, rate = [*words, *(f"key{number}", "use", "0")[len(words) - 1 :]][:4]
    if len(words) > 4 or role not in ROLES or not rate.isdecimal() or len(secret) < SHORTEST:
        raise UsageError(
            "{file}, line {number}, is no key.",
            hint="Write KEY [NAME [use|admin [REQUESTS_PER_MINUTE]]], the key of {shortest} characters at least.",
            file=file,
            number=number,
            shortest=SHORTEST,
        )
    return Key(name, digest_of(secret), role, int(rate))


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def find_key(keys: Sequence[Key], authorization: str, role: Literal["use", "admin"]) -> Key:
    """The key that an Authorization header holds. All keys are compared, each in the same time, whichever it is.

    Raises Refused (401, 403).
    """
    scheme, _, secret = authorization.partition(" ")
    digest, found = digest_of(secret.strip()), None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    if found is None or scheme.lower() != "bearer":
        raise Refused(401, "This server needs a valid key: Authorization: Bearer KEY.", code="invalid_api_key")
    if role == "admin" and found.role != "admin":
        raise Refused(403, "This key may not do that.", code="insufficient_permissions")
    return found
