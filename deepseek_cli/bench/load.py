"""How requests come to a server: from so many clients, each after its last answer, or at random times at a rate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deepseek_cli.errors import UsageError

MOST_CLIENTS = 1024
MOST_RATE = 1e4  # requests a second


@dataclass(frozen=True, slots=True)
class Load:
    """Closed arrival where there are `clients`, open arrival where there is a `rate` (a second, a Poisson process)."""

    clients: int = 0
    rate: float = 0.0

    def __str__(self) -> str:
        return f"{self.rate:g}/s" if self.rate else f"{self.clients} client{'s' * (self.clients > 1)}"


def parse_loads(text: str) -> tuple[Load, ...]:
    """Of "1,16,4/s". Raises UsageError."""
    return tuple(_parse(word.strip(), text) for word in text.split(","))


def _parse(word: str, text: str) -> Load:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(/s)?", word, re.ASCII)
    count = float(match[1]) if match else 0.0
    if match and match[2] and 0 < count <= MOST_RATE:
        return Load(rate=count)
    if match and not match[2] and 1 <= count <= MOST_CLIENTS and count == int(count):
        return Load(clients=int(count))
    raise UsageError(
        "--load {text!r}: {word!r} is neither a number of clients nor a rate.",
        hint="Write it like 1,16 or 4/s; up to {clients} clients, and {rate:g} requests a second.",
        text=text,
        word=word,
        clients=MOST_CLIENTS,
        rate=MOST_RATE,
    )


def most_clients(loads: Sequence[Load]) -> int:
    return max(load.clients for load in loads)


def is_url(ref: str) -> bool:
    return ref.startswith(("http://", "https://"))
