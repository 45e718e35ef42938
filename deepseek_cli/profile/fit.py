"""Whether a model fits a device, how long a context fits, and which scheme would make it fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from deepseek_cli.profile.devices import Device

TIGHT = 0.85  # of what is usable; beyond it little is left for what an estimate misses

Verdict = Literal["fits", "tight", "does not fit"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class Need:
    """What a model takes in one form. A token of context takes `token_bytes` in all rows of the batch together; one step reads
    `read_bytes` of the weights.
    """

    scheme: str
    weights_bytes: int
    other_bytes: int  # activations and the runtime's own
    token_bytes: int
    read_bytes: int

    def at(self, context: int) -> int:
        return self.weights_bytes + self.other_bytes + self.token_bytes * context


@dataclass(frozen=True, slots=True)
class Fit:
    device: Device
    verdict: Verdict
    largest_context: int  # 0 where not even the weights fit
    tokens_per_second: float | None  # of one row, at most: memory read once a token; None where it does not fit
    scheme: str  # the one of most bits that fits, empty where none does


def fit(device: Device, needs: Sequence[Need], context: int, longest: int) -> Fit:
    """`needs` are the model's as asked for, then in other forms from most bits to fewest."""
    asked = needs[0]
    verdict = verdict_of(asked.at(context), device.usable_bytes)
    room = device.usable_bytes - asked.at(0)
    smaller = next((need for need in needs if verdict_of(need.at(context), device.usable_bytes) != "does not fit"), None)
    read = asked.read_bytes + asked.token_bytes * context
    return Fit(
        device,
        verdict,
        max(min(room // asked.token_bytes, longest), 0),
        device.bandwidth / read if device.bandwidth and verdict != "does not fit" else None,
        smaller.scheme if smaller else "",
    )


def verdict_of(needed: int, usable: int, tight: float = TIGHT) -> Verdict:
    if needed > usable:
        return "does not fit"
    return "fits" if needed <= tight * usable else "tight"


def as_rows(fits: Iterable[Fit]) -> list[Mapping[str, Any]]:
    return [
        {
            "device": f.device.name,
            "kind": f.device.kind,
            "memory_bytes": f.device.memory_bytes,
            "usable_bytes": f.device.usable_bytes,
            "bandwidth_bytes_per_second": f.device.bandwidth,
            "verdict": f.verdict,
            "largest_context": f.largest_context,
            "tokens_per_second": f.tokens_per_second,
            "scheme": f.scheme or None,
        }
        for f in fits
    ]
