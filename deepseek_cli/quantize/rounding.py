"""Rounding by what calibration found: the weights over one input together, and an expert's in turn.

These are functions of the values that they are given, and of nothing else, so that any process can do them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.quantize import search
from deepseek_cli.quantize.algorithms import Algorithm
from deepseek_cli.quantize.fold import lightened, lost
from deepseek_cli.quantize.low_rank import corrected
from deepseek_cli.quantize.plan import Item
from deepseek_cli.quantize.spread import LOCAL, Engine
from deepseek_cli.quantize.statistics import Statistics, gather_weighted
from deepseek_cli.quantize.zeros import with_zeros, zeros_of
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import Quantized, TensorRef, dense, rows_of, take_rows

PLAIN = "imatrix"  # what every algorithm is measured against, and what stands where one does worse
TOGETHER = 1 << 25  # values of weights over one input that are rounded at once
FLOOR = 4  # times an expert's inputs: so many tokens say all there is to know about them


@dataclass(frozen=True, slots=True)
class Note:
    """How a weight was rounded: by what, from how many tokens, and its outputs' error on held-out ones over that of PLAIN."""

    algorithm: str
    tokens: int
    gain: float


@dataclass(frozen=True, slots=True)
class Rounded:
    """Quantized weights and changed norms by name without `.weight`, and what there is to know of them."""

    made: dict[str, tuple[Quantized, Scheme]] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)  # that scales were folded into
    scales: dict[str, Tensor] = field(default_factory=dict)  # what made weights were multiplied by for that, [in]
    notes: dict[str, Note] = field(default_factory=dict)  # by full name
    plain: dict[str, float] = field(default_factory=dict)  # the error of PLAIN, by full name
    failures: list[dict[str, str]] = field(default_factory=list)  # where the algorithm gave up

    def add(self, other: Rounded) -> None:
        self.made.update(other.made)
        self.norms.update(other.norms)
        self.scales.update(other.scales)
        self.notes.update(other.notes)
        self.plain.update(other.plain)
        self.failures.extend(other.failures)

    def give_up(self, tensor: str, algorithm: Algorithm, reason: ValueError) -> None:
        self.failures.append({"tensor": tensor, "algorithm": algorithm.name, "reason": str(reason)})


@dataclass(frozen=True, slots=True)
class Batch:
    """Weights over one input: they share a Hessian."""

    items: Sequence[Item]
    refs: Sequence[TensorRef]  # of these items, as they lie on disk
    algorithm: Algorithm
    root: Path  # of the model, for errors to name
    rows: slice = field(default_factory=lambda: slice(None))  # of each


def round_batch(batch: Batch, statistics: Statistics) -> Rounded:
    """Each weight by the candidate that serves it best. Raises ModelCorrupt for values or inputs that are not finite."""
    weight = torch.cat([_original(ref, batch.root, batch.rows) for ref in batch.refs])
    algorithm, scheme, first = batch.algorithm, batch.items[0].scheme, batch.items[0].name
    _check(statistics, first, batch.root)
    rounded, found = Rounded(), {}
    candidates: dict[str, Callable[..., Quantized]] = {PLAIN: search.quantize}
    if algorithm.quantize is not search.quantize:
        candidates[algorithm.name] = algorithm.quantize
    zeros = zeros_of(weight)
    for name, quantize in candidates.items():
        try:
            made = quantize(weight, scheme, statistics)
            found[name] = made if zeros is None else with_zeros(made, zeros)
        except ValueError as error:  # the weight and its inputs are finite: the Hessian has no factor
            if name == PLAIN:
                raise
            rounded.give_up(first, algorithm, error)
    start = 0
    for item in batch.items:
        rows = slice(start, start + item.shape[0])
        start += item.shape[0]
        if len(found) > 1 or algorithm.fold or scheme.rank:
            _choose(item, weight[rows], {name: q.rows(rows) for name, q in found.items()}, statistics, rounded)
        else:
            rounded.made[item.name.removesuffix(".weight")] = found[PLAIN].rows(rows), item.scheme
            rounded.notes[item.name] = Note(PLAIN, statistics.tokens, 1.0)
    return rounded


def _choose(item: Item, weight: Tensor, candidates: Mapping[str, Quantized], statistics: Statistics, rounded: Rounded) -> None:
    """The candidate whose outputs are closest on the held-out tokens, corrected where the scheme says so."""
    errors = {name: statistics.error(weight, q.dequantize()) for name, q in candidates.items()}
    best = min(errors, key=lambda name: errors[name])
    rounded.plain[item.name] = max(errors[PLAIN], 1e-30)
    made = corrected(weight, candidates[best], item.scheme.rank, statistics)
    error = statistics.error(weight, made.dequantize()) if item.scheme.rank else errors[best]
    rounded.made[item.name.removesuffix(".weight")] = made, item.scheme
    rounded.notes[item.name] = Note(best, statistics.tokens, error / rounded.plain[item.name])


def stacked(pieces: Sequence[Rounded], name: str) -> Rounded:
    """A weight of which each of `pieces` has some rows."""
    notes = [piece.notes[f"{name}.weight"] for piece in pieces]
    gain = sum(note.gain for note in notes) / len(notes)
    note = Note("+".join(dict.fromkeys(note.algorithm for note in notes)), notes[0].tokens, gain)
    weight, scheme = rows_of([piece.made[name][0] for piece in pieces]), pieces[0].made[name][1]
    return Rounded({name: (weight, scheme)}, notes={f"{name}.weight": note}, failures=pieces[0].failures)  # all have one Hessian


def round_folded(batch: Batch, norm: TensorRef, statistics: Statistics, plain: Mapping[str, float]) -> Rounded:
    """All that `norm` feeds, rounded after scales moved into it from there; errors are relative to those of `plain`.

    Raises ValueError where the algorithm gives up.
    """
    algorithm, rounded = batch.algorithm, Rounded()
    assert algorithm.fold
    step = -(-sum(ref.values for ref in batch.refs) // TOGETHER)
    sample = torch.cat([_original(ref, batch.root)[::step] for ref in batch.refs])
    after = lightened(norm, algorithm.fold(sample, batch.items[0].scheme, statistics))
    scale = lost(norm, after)
    within = statistics.over(scale)
    rounded.norms[norm.name.removesuffix(".weight")] = after
    for item, ref in zip(batch.items, batch.refs, strict=True):
        weight, stem = _original(ref, batch.root) * scale, item.name.removesuffix(".weight")
        quantized = corrected(weight, algorithm.quantize(weight, item.scheme, within), item.scheme.rank, within)
        error = within.error(weight, quantized.dequantize())
        rounded.made[stem], rounded.scales[stem] = (quantized, item.scheme), scale
        rounded.notes[item.name] = Note(algorithm.name, statistics.tokens, error / plain[item.name])
    return rounded


def _original(ref: TensorRef, root: Path, rows: slice = slice(None)) -> Tensor:
    weight = dense(take_rows(ref.read(), rows)).float()
    ref.release()
    if not torch.stack(weight.aminmax()).isfinite().all():  # which a NaN comes through; one pass instead of four
        raise ModelCorrupt(
            "{model}: tensor {tensor} holds a NaN or an infinity.",
            hint="Pull the model again; if it stays, the model is damaged.",
            model=root,
            tensor=ref.name,
        )
    return weight


def _check(statistics: Statistics, name: str, root: Path) -> None:
    if not statistics.hessian.diagonal().isfinite().all():
        raise ModelCorrupt(
            "{model}: on the calibration text, the inputs of tensor {tensor} are not finite.",
            hint="Check the model: deepseek eval; or use --algorithm search, which looks at no text.",
            model=root,
            tensor=name,
        )


@dataclass(frozen=True, slots=True)
class Weights:
    """Some weights of a model, quantized when their inputs are known: what becomes of them is `rounded`."""

    root: Path
    items: Mapping[str, Item]  # that are to be quantized, by name
    stored: Mapping[str, TensorRef]  # as they lie on disk, of these items
    refs: Mapping[str, TensorRef]  # what is computed with, in the operators' order
    order: Mapping[str, Tensor]  # of rows, where that is another than on disk
    algorithm: Algorithm
    dtype: torch.dtype
    engine: Engine = LOCAL
    readers: Mapping[tuple[str, ...], str] = field(default_factory=dict)  # norms that scales may fold into, by the weights behind
    rounded: Rounded = field(default_factory=Rounded)

    def part(self, names: Sequence[str]) -> Weights:
        """Only these, to be dealt with by themselves."""
        pick = lambda known: {f"{name}.weight": known[f"{name}.weight"] for name in names if f"{name}.weight" in known}  # noqa: E731
        items, refs = pick(self.items), pick(self.refs)
        others = {name: ref for name, ref in refs.items() if name not in items}
        return Weights(self.root, items, pick(self.stored), others, pick(self.order), self.algorithm, self.dtype)

    def wants(self, *names: str) -> bool:
        return any(f"{name}.weight" in self.items for name in names)

    def weight(self, name: str) -> Tensor | None:
        """In the operators' order, as the original has it."""
        ref = self.refs.get(name)
        if ref is None:
            return None
        values = dense(ref.read()).to(self.dtype)
        ref.release()
        return values

    def decide(self, names: Sequence[str], statistics: Statistics) -> list[Tensor]:
        """What to compute with. Weights that are to be quantized are: together, since they share a Hessian."""
        batches = self._batches([name for name in names if self.wants(name)])
        engine = self.engine if len(batches) > 1 else LOCAL  # nothing would run beside a single one
        for rounded in engine.all_threads(round_batch, batches, statistics):
            self.rounded.add(rounded)
        norm = self.readers.get(tuple(names))
        if norm and all(self.wants(name) for name in names):
            self._fold(self.stored[f"{norm}.weight"], [self.items[f"{name}.weight"] for name in names], statistics)
        return [self._computed(name) for name in names]

    def decide_rows(self, name: str, statistics: Statistics) -> None:
        """A weight of many rows, some at a time: none of them depends on another, but for what corrects them all."""
        item = self.items[f"{name}.weight"]
        out, inputs = item.shape
        step, whole = out if item.scheme.rank else max(TOGETHER // inputs, 1), self._batch([item])
        found = []
        for start in range(0, out, step):
            part = replace(item, shape=(min(step, out - start), inputs))
            found.append(round_batch(replace(whole, items=[part], rows=slice(start, start + step)), statistics))
        self.rounded.add(stacked(found, name))

    def _fold(self, norm: TensorRef, items: Sequence[Item], statistics: Statistics) -> None:
        """Scales move into the norm from all weights behind it, if that lowers their outputs' errors on held-out tokens."""
        rounded = self.rounded
        try:
            folded = round_folded(self._batch(items), norm, statistics, rounded.plain)
        except ValueError as error:
            rounded.give_up(items[0].name, self.algorithm, error)
            return
        if sum(note.gain for note in folded.notes.values()) < sum(rounded.notes[name].gain for name in folded.notes):
            rounded.add(folded)

    def _batches(self, names: Sequence[str]) -> list[Batch]:
        groups: list[list[Item]] = []
        for item in (self.items[f"{name}.weight"] for name in names):
            same = groups and groups[-1][0].scheme == item.scheme
            if same and sum(i.shape[0] * i.shape[1] for i in (*groups[-1], item)) <= TOGETHER:
                groups[-1].append(item)
            else:
                groups.append([item])
        return [self._batch(items) for items in groups]

    def _batch(self, items: Sequence[Item]) -> Batch:
        return Batch(items, [self.stored[item.name] for item in items], self.algorithm, self.root)

    def _computed(self, name: str) -> Tensor:
        made = self.rounded.made.get(name)
        if made is None:
            weight = self.weight(f"{name}.weight")
            assert weight is not None
            return weight
        order = self.order.get(f"{name}.weight")
        values = dense(made[0] if order is None else take_rows(made[0], order))
        return (values / self.rounded.scales[name] if name in self.rounded.scales else values).to(self.dtype)


@dataclass(frozen=True, slots=True)
class Expert:
    """An expert of a layer, the tokens that are routed to it, and how much it counts for each."""

    name: str
    weights: Weights  # its three
    token: Tensor  # int64 [tokens], rows of all inputs
    gate: Tensor  # float32 [tokens]


def round_expert(expert: Expert, rows: Tensor) -> tuple[Tensor, Rounded]:
    """Its outputs for its tokens, [tokens, hidden], of the inputs `rows` [all tokens, hidden], and its weights.

    A token counts as the square of its gate; where tokens are few, all others count a little.
    """
    token, gate, decide = expert.token, expert.gate, expert.weights.decide
    own, floor = gate.square(), FLOOR * rows.shape[1]
    sample = torch.arange(0, len(rows), max(len(rows) // floor, 1))  # of all tokens, evenly; they count as `floor` of its own
    if len(token) >= floor:
        sample = sample[:0]
    typical = own.mean() if len(token) else torch.ones(())
    weight = torch.cat((own, (typical * floor / max(len(sample), 1)).expand(len(sample))))
    x = rows[torch.cat((token, sample))]
    gate_up = decide([f"{expert.name}.gate_proj", f"{expert.name}.up_proj"], gather_weighted(x, weight, len(token)))
    g, u = (F.linear(x, w) for w in gate_up)
    h = F.silu(g) * u
    (down,) = decide([f"{expert.name}.down_proj"], gather_weighted(h, weight, len(token)))
    return F.linear(h[: len(token)], down), expert.weights.rounded
