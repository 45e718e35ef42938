"""The interpreter that notes which weights are computed with, and when. It computes nothing, and needs no weights."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

from deepseek_cli.ops import Architecture, forward


class OrderOps:
    """`products` has the names of embedding, products' weights, and biases behind them; what is tied stands there twice.
    `factors` has those of norms. `held` says what there is."""

    def __init__(self, held: Container[str]) -> None:
        self.held, self.products, self.factors = held, list[str](), list[str]()

    def linears(self, x: Any, names: Sequence[str]) -> list[None]:
        for name in names:
            self.products += [full for full in (f"{name}.weight", f"{name}.bias") if full in self.held]
        return [None] * len(names)

    def linear(self, x: Any, name: str) -> None:
        self.linears(x, [name])

    embed = head = linear

    def rms_norm(self, x: Any, name: str, eps: float) -> None:
        self.factors.append(f"{name}.weight")

    def head_norm(self, x: Any, name: str, heads: int, eps: float) -> None:
        self.factors.append(f"{name}.weight")

    def gated_mlp(self, x: Any, gate: str, up: str, down: str) -> None:
        self.linears(x, [gate, up, down])

    def __getattr__(self, operator: str) -> Callable[..., None]:
        return lambda *values, **named: None


def order_of_use(architecture: Architecture, config: Any, held: Container[str]) -> OrderOps:
    ops = OrderOps(held)
    forward(ops, architecture, config, None)
    return ops
