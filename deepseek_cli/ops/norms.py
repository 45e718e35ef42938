"""The interpreter that looks at who takes each norm's output. It computes nothing, and needs no weights and no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deepseek_cli.ops import Architecture, forward


@dataclass(frozen=True, slots=True)
class Normed:
    """The output of `norm`; every other value is None."""

    norm: str


class NormOps:
    """`readers` has, for each norm, the weights of each product over its output; any other use of it is a product of none."""

    def __init__(self) -> None:
        self.readers: dict[str, list[tuple[str, ...]]] = {}
        self.used: Counter[str] = Counter()

    def rms_norm(self, x: Any, name: str, eps: float) -> Normed:
        self._read(x)
        self.readers.setdefault(name, [])
        return Normed(name)

    def linears(self, x: Any, names: Sequence[str]) -> list[None]:
        self._read(x, *names)
        return [None] * len(names)

    def linear(self, x: Any, name: str) -> None:
        self._read(x, name)

    def gated_mlp(self, x: Any, gate: str, up: str, down: str) -> None:
        self._read(x, gate, up)
        self._read(None, down)

    def __getattr__(self, operator: str) -> Callable[..., None]:
        def work(*values: Any, **named: Any) -> None:
            for value in (*values, *named.values()):
                self._read(value)

        return work

    def _read(self, x: Any, *names: str) -> None:
        self.used.update(names)
        if isinstance(x, Normed):
            self.readers[x.norm].append(names)


def sole_readers(architecture: Architecture, config: Any) -> dict[tuple[str, ...], str]:
    """Norms by the weights behind them, where one product is all that takes the norm's output, and those weights no other.

    There a channel's scale can move from norm to weights and back, and nothing else changes. The drafting layer is left out.
    """
    ops = NormOps()
    forward(ops, architecture, config, None)
    alone = {norm: products[0] for norm, products in ops.readers.items() if len(products) == 1}
    return {names: norm for norm, names in alone.items() if names and all(ops.used[name] == 1 for name in names)}
