"""Which tensor gets which scheme: rules in order, fused weights alike, and what stays dense with its reason."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.cost import count
from deepseek_cli.quantize.spec import QuantizeSpec, default_group
from deepseek_cli.schemes import DENSE, Scheme, parse_scheme

TILE = 32  # inputs; what every target can lay out


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor of the model. `reason` says why a weight that a scheme was meant for stays dense."""

    name: str  # on disk, with .weight
    shape: tuple[int, ...]
    scheme: Scheme
    reason: str = ""
    kept: bool = False  # a norm, a bias: written as it is


@dataclass(frozen=True, slots=True)
class Plan:
    items: tuple[Item, ...]
    scheme: Scheme  # of the body
    fused: tuple[tuple[str, ...], ...]

    @property
    def fallbacks(self) -> list[Item]:
        return [item for item in self.items if item.reason]

    def bytes_with(self, dense_bytes: dict[str, int]) -> int:
        """Bytes of all tensors on disk; `dense_bytes` gives those that are kept."""
        return sum(dense_bytes[i.name] if i.kept else i.scheme.bytes_of(*_matrix(i.shape)) for i in self.items)


def make_plan(handle: ModelHandle, spec: QuantizeSpec) -> Plan:
    """The scheme of every tensor.

    Raises UsageError for a rule that matches nothing or that splits weights which one product fuses.
    """
    body = spec.resolve(handle.parameters)
    cost = count(handle.architecture, handle.config)
    rules = _rules(spec, handle, cost.embeddings, body)
    items = tuple(_item(name, ref.shape, {*cost.linears, *cost.embeddings}, rules, body) for name, ref in handle.weights.items())
    _check_rules(spec, items, handle)
    _check_fused(items, cost.fused)
    return Plan(items, body, tuple(cost.fused))


def _rules(spec: QuantizeSpec, handle: ModelHandle, embeddings: list[str], body: Scheme) -> list[tuple[str, Scheme]]:
    """Later rules win; the first two protect embedding and head."""
    group = default_group(handle.parameters)
    outer = DENSE if body is DENSE else parse_scheme(spec.embeddings, group)
    rules = [(name, outer) for name in (*embeddings, "lm_head")]
    tied = getattr(handle.config, "tied", False)
    for text in spec.rule:
        pattern, equals, scheme = text.partition("=")
        if not equals:
            raise UsageError(
                "--rule {rule} is not of the form PATTERN=SCHEME.", hint="For example: --rule lm_head=int4", rule=text
            )
        name = embeddings[0] if tied and pattern == "lm_head" else pattern
        rules.append((name, parse_scheme(scheme, body.group if body.bits == 4 and body.group else group)))
    return rules


def _item(name: str, shape: tuple[int, ...], weights: set[str], rules: list[tuple[str, Scheme]], body: Scheme) -> Item:
    stem = name.removesuffix(".weight")
    if stem not in weights or name == stem:
        return Item(name, shape, DENSE, kept=True)
    scheme = next((s for pattern, s in reversed(rules) if fnmatchcase(stem, pattern)), body)
    if scheme.bits < 16 and shape[-1] % TILE:
        return Item(name, shape, DENSE, f"its {shape[-1]} inputs are not a multiple of {TILE}")
    return Item(name, shape, scheme)


def _check_rules(spec: QuantizeSpec, items: tuple[Item, ...], handle: ModelHandle) -> None:
    stems = [item.name.removesuffix(".weight") for item in items if not item.kept]
    for rule in spec.rule:
        pattern = rule.partition("=")[0]
        tied_head = pattern == "lm_head" and getattr(handle.config, "tied", False)
        if not tied_head and not any(fnmatchcase(stem, pattern) for stem in stems):
            close = difflib.get_close_matches(pattern, [*stems, *(f"*.{s.rsplit('.', 1)[-1]}" for s in stems)], 1, 0.4)
            raise UsageError(
                "--rule {rule} matches no weight of {model}.",
                hint="Did you mean {close}?" if close else "See the names with: deepseek show {model}",
                rule=rule,
                model=handle.name,
                close=close[0] if close else "",
            )


def _check_fused(items: tuple[Item, ...], fused: list[tuple[str, ...]]) -> None:
    schemes = {item.name.removesuffix(".weight"): item.scheme for item in items}
    for names in fused:
        if len({schemes[name] for name in names}) > 1:
            raise UsageError(
                "A rule gives {names} different schemes, but one product computes them together.",
                hint="Give them one scheme, with a pattern that matches all of them.",
                names=", ".join(names),
            )


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], shape[1] if len(shape) > 1 else 1
