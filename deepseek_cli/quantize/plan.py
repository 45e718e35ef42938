"""Which tensor gets which scheme: rules in order, fused weights alike, and what stays dense with its reason."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol

from deepseek_cli.errors import UsageError
from deepseek_cli.ops import Architecture
from deepseek_cli.ops.cost import Cost, count, count_draft
from deepseek_cli.quantize.mixture import Blocks, in_blocks
from deepseek_cli.quantize.spec import EMBEDDINGS, QuantizeSpec, default_group
from deepseek_cli.schemes import BLOCK_BITS, DENSE, MIXTURE, Scheme, parse_scheme, pattern_of

if TYPE_CHECKING:  # a plan of a config alone is made without torch
    from deepseek_cli.tensors import TensorRef

Shape = tuple[int, ...]
Fused = tuple[tuple[str, ...], ...]
TILE = 32  # inputs; what every target can lay out


class Described(Protocol):
    """What a plan is made of: a `ModelHandle`, or a model that is known by its config alone."""

    @property
    def name(self) -> str: ...
    @property
    def architecture(self) -> Architecture: ...
    @property
    def config(self) -> Any: ...
    @property
    def parameters(self) -> int: ...
    @property
    def stored(self) -> Mapping[str, Any]:
        """By on-disk name what has a `shape`; where it leaves weights out, the plan does."""


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor of the model. `reason` says why a weight that a scheme was meant for stays dense."""

    name: str  # on disk, with .weight
    shape: Shape
    scheme: Scheme
    reason: str = ""
    kept: bool = False  # a norm, a bias: written as it is
    instead: str = ""  # why it lies in other blocks than were meant for it


@dataclass(frozen=True, slots=True)
class Plan:
    items: tuple[Item, ...]
    scheme: Scheme  # of the body
    fused: Fused
    units: Fused = ()  # what a goal may choose a scheme for: weights that share one, without .weight
    goal: Mapping[str, Any] = field(default_factory=dict)  # how the schemes of units were chosen, where they were

    @property
    def fallbacks(self) -> list[Item]:
        return [item for item in self.items if item.reason]

    @property
    def values(self) -> int:
        return sum(math.prod(item.shape) for item in self.items)

    def bytes_with(self, tensors: Mapping[str, TensorRef]) -> int:
        """Bytes of all tensors on disk; what is kept takes what it takes in `tensors`."""
        return sum(_bytes(item, tensors[item.name]) for item in self.items)

    def with_schemes(self, schemes: Mapping[str, Scheme], goal: Mapping[str, Any]) -> Plan:
        """The same plan with a scheme for each of `units`, by its first name."""
        chosen = {f"{name}.weight": schemes[unit[0]] for unit in self.units for name in unit}
        items = tuple(replace(i, scheme=chosen[i.name]) if i.name in chosen else i for i in self.items)
        return replace(self, items=items, goal=goal)


@dataclass(frozen=True, slots=True)
class Rule:
    pattern: str
    scheme: Scheme
    given: str = ""  # as the user wrote it; empty for what holds unless they say otherwise
    free: bool = False  # a goal may choose otherwise


def make_plan(handle: Described, spec: QuantizeSpec, costs: tuple[Cost, Cost] | None = None) -> Plan:
    """The scheme of every tensor, of the layer that drafts too. `costs` are the model's and its draft's, where they are known.

    Raises UsageError for a rule that matches nothing or that splits weights which one product fuses.
    """
    body = spec.resolve(handle.parameters)
    cost, draft = costs or (count(handle.architecture, handle.config), count_draft(handle.architecture, handle.config))
    shapes = {name: ref.shape for name, ref in handle.stored.items()}
    there = (tuple(n for n in names if f"{n}.weight" in shapes) for names in (*cost.fused, *draft.fused))
    fused = tuple(names for names in there if names)
    stems = [s for s in dict.fromkeys((*cost.embeddings, *cost.linears, *draft.linears)) if f"{s}.weight" in shapes]
    rules = [Rule("*", body, free=body is not DENSE), *_rules(spec, handle, cost.embeddings, body)]
    chosen = {stem: next(rule for rule in reversed(rules) if fnmatchcase(stem, rule.pattern)) for stem in stems}
    _check_rules(rules, stems, handle)
    _check_blocks(chosen)
    if not body.block:  # a product that a backend fuses is one of codes
        _check_fused(chosen, fused)
    reasons = _fallbacks(shapes, chosen, fused)
    free = {stem for stem in {*cost.embeddings, *cost.linears} & {*stems} if chosen[stem].free and stem not in reasons}
    units = _units(free, fused, (*cost.embeddings, "lm_head"))
    blocks = Blocks(handle.config.layers, cost.head)
    return Plan(tuple(_item(name, shape, chosen, reasons, blocks) for name, shape in shapes.items()), body, fused, units)


def _units(free: set[str], fused: Fused, ends: Sequence[str]) -> Fused:
    """What shares a scheme among `free` weights; those that one product computes beside one that is not free are left out."""
    shared: dict[str, tuple[str, ...]] = {name: (name,) for name in sorted(free)}
    for names in (*fused, tuple(name for name in ends if name in free)):
        if free.issuperset(names):
            joined = tuple(dict.fromkeys(other for name in names for other in shared[name]))
            shared |= dict.fromkeys(joined, joined)
        else:
            held = {*names}
            shared = {name: unit for name, unit in shared.items() if held.isdisjoint(unit)}
    return tuple(dict.fromkeys(shared.values()))


def _rules(spec: QuantizeSpec, handle: Described, embeddings: list[str], body: Scheme) -> list[Rule]:
    """Later rules win: embedding and head, then what the architecture protects, then the user's."""
    group = default_group(handle.parameters)
    silent = spec.embeddings == EMBEDDINGS
    as_body = body is DENSE or (silent and (bool(body.block) or body.bits == 8))
    outer = (replace(body, rank=0) if body.rank else body) if as_body else parse_scheme(spec.embeddings, group)
    free = outer is not DENSE and silent
    if body.positive and outer.symmetric and outer.bits < DENSE.bits:  # who refuses negative scales does so in the head, too
        outer = replace(outer, positive=True)
    rules = [Rule(name, outer, free=free) for name in (*embeddings, "lm_head")]
    guarded = ((pattern, parse_scheme(scheme, group)) for pattern, scheme in handle.architecture.protected)
    kind = in_blocks if body.block else lambda scheme: scheme
    rules += [Rule(pattern, kind(scheme)) for pattern, scheme in guarded if scheme.bits > body.bits]
    for text in spec.rule:
        pattern, equals, scheme = text.partition("=")
        if not equals:
            raise UsageError(
                "--rule {rule} is not of the form PATTERN=SCHEME.", hint="For example: --rule lm_head=int4", rule=text
            )
        name = embeddings[0] if pattern == "lm_head" and getattr(handle.config, "tied", False) else pattern
        rules.append(Rule(name, parse_scheme(scheme, body.group if body.bits < 8 and body.group else group), text))
    return rules


def _fallbacks(shapes: Mapping[str, Shape], chosen: Mapping[str, Rule], fused: Fused) -> dict[str, str]:
    """Why weights stay dense that a scheme was chosen for. What one product computes stays dense together."""
    reasons = {}
    for stem, rule in chosen.items():
        inputs = shapes[f"{stem}.weight"][-1]
        if rule.scheme.bits < 16 and inputs % TILE:
            reasons[stem] = f"its {inputs} inputs are not a multiple of {TILE}"
    for names in fused:
        odd = next((name for name in names if name in reasons), None)
        if odd:
            shared = f"the {shapes[f'{odd}.weight'][-1]} inputs of {odd}, beside it, are not a multiple of {TILE}"
            reasons |= {name: reasons.get(name, shared) for name in names}
    return reasons


def _item(name: str, shape: Shape, chosen: Mapping[str, Rule], reasons: Mapping[str, str], blocks: Blocks) -> Item:
    stem = name.removesuffix(".weight")
    if stem not in chosen or name == stem:
        return Item(name, shape, DENSE, kept=True)
    scheme, reason = chosen[stem].scheme, reasons.get(stem, "")
    if not scheme.block or reason:
        return Item(name, shape, DENSE if reason else scheme, reason)
    scheme, instead = blocks.of(stem, shape[-1], scheme)
    return Item(name, shape, scheme, instead=instead)


def _check_rules(rules: list[Rule], stems: list[str], handle: Described) -> None:
    for rule in rules:
        if rule.given and not any(fnmatchcase(stem, rule.pattern) for stem in stems):
            families = dict.fromkeys(pattern_of(stem) for stem in stems)
            endings = dict.fromkeys(f"*.{family.rsplit('.', 1)[-1]}" for family in families)
            parts = dict.fromkeys(f"*.{part}.*" for family in families for part in family.split(".")[:-1] if part != "*")
            close = difflib.get_close_matches(rule.pattern, [*families, *endings, *parts], 1, 0.4)
            raise UsageError(
                "--rule {rule} matches no weight of {model}.",
                hint="Did you mean {close}?" if close else "See the names with: deepseek show {model}",
                rule=rule.given,
                model=handle.name,
                close=close[0] if close else "",
            )


def _check_blocks(chosen: Mapping[str, Rule]) -> None:
    """Raises UsageError where some weights would be blocks and others codes: a folder has one way to hold them."""
    kinds = {bool(rule.scheme.block): (stem, rule.scheme) for stem, rule in chosen.items() if rule.scheme.bits < 16}
    if len(kinds) > 1:
        (coded, codes), (blocked, blocks) = kinds[False], kinds[True]
        raise UsageError(
            "{coded} would be {codes}, and {blocked} {blocks}: a model holds codes or ggml's blocks, not both.",
            hint="Give all weights schemes of one kind; blocks are {known}.",
            coded=coded,
            codes=str(codes),
            blocked=blocked,
            blocks=str(blocks),
            known=", ".join((MIXTURE, *BLOCK_BITS)),
        )


def _check_fused(chosen: Mapping[str, Rule], fused: Fused) -> None:
    for names in fused:
        first = chosen[names[0]]
        other = next((name for name in names if chosen[name].scheme != first.scheme), None)
        if other:
            given = chosen[other].given or first.given
            raise UsageError(
                "--rule {rule} gives {first} and {other} different schemes, but one product computes them together.",
                hint="Give them one scheme, with a pattern that matches all of them.",
                rule=given,
                first=names[0],
                other=other,
            )


def _bytes(item: Item, ref: TensorRef) -> int:
    from deepseek_cli.formats import quantized

    if item.scheme.bits < 16:
        return sum(part.size for part in quantized.planned_parts("", (item.shape[0], item.shape[1]), item.scheme))
    as_it_is = (item.kept or item.reason) and not ref.quantized
    return ref.size_bytes if as_it_is else 2 * math.prod(item.shape)
