"""Quantizing with calibration: block after block, each seeing what those before it have become.

One block's weights are read at a time; activations beyond a budget lie on disk; each finished block is kept, so that a run
that was stopped goes on behind it with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.handle import ModelHandle
from deepseek_cli.memory import free_bytes
from deepseek_cli.ops.norms import sole_readers
from deepseek_cli.ops.torch_parts import Parts, Spool, fastest_dtype, over_parts
from deepseek_cli.quantize import search
from deepseek_cli.quantize.calibrate import CalibratingOps
from deepseek_cli.quantize.calibration import Calibration
from deepseek_cli.quantize.checkpoint import Checkpoint
from deepseek_cli.quantize.fold import lightened, lost
from deepseek_cli.quantize.method import Method
from deepseek_cli.quantize.plan import Item
from deepseek_cli.quantize.statistics import Statistics
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import QuantizedTensor, TensorRef, dense, take_rows

PLAIN = "imatrix"  # what every algorithm is measured against, and what stands where one does worse
PART = 4  # windows that are computed at once
SHARE = 0.25  # of the free memory, for activations
TOGETHER = 1 << 25  # values of weights over one input that are rounded at once


@dataclass(frozen=True, slots=True)
class Note:
    """How a weight was rounded: by what, from how many tokens, and its outputs' error on held-out ones over that of PLAIN."""

    algorithm: str
    tokens: int
    gain: float


def quantize_blocks(
    handle: ModelHandle, method: Method, checkpoint: Checkpoint, reporter: Reporter = SILENT
) -> tuple[dict[str, TensorRef], dict[str, Any]]:
    """The weights that `method` calibrates: references to their codes by name, and a `Note` on each.

    Norms that scales were folded into are among the references.

    Raises ModelCorrupt for a weight that holds a NaN.
    """
    arch, config, calibration = handle.architecture, handle.config, method.calibration
    assert calibration
    blocks = [*range(config.layers), *([config.layers] if handle.draft_weights else [])]
    for block in blocks[checkpoint.blocks :]:
        with torch.no_grad():  # inference mode would not reach the threads that round
            work = Block(handle, method, reporter.warn)
            ops = CalibratingOps(work.weight, work.decide, work.wanted, work.dtype, method.algorithm.needs == "both")
            x = _enter(handle, ops, calibration, checkpoint, block)
            x = _draft(ops, handle, calibration, x) if block == config.layers else arch.block(ops, config, x, block)
        checkpoint.save_codes(block, work.made, work.norms, {name: asdict(note) for name, note in work.notes.items()})
        checkpoint.save_hidden(block, x)
        reporter.progress("calibrate", block + 1, len(blocks))
    return checkpoint.codes()


def _enter(handle: ModelHandle, ops: CalibratingOps, calibration: Calibration, checkpoint: Checkpoint, block: int) -> Parts:
    spool = Spool(int(SHARE * free_bytes()), checkpoint.folder / "activations")
    if block:
        return checkpoint.hidden(block - 1, spool)
    embedded: Parts = handle.architecture.embed(ops, handle.config, Parts(spool, calibration.windows.split(PART)))
    return embedded


def _draft(ops: CalibratingOps, handle: ModelHandle, calibration: Calibration, x: Parts) -> Parts:
    """The layer that drafts: from the hidden state of a token, and the token that follows it."""
    normed = over_parts(lambda part: part[:, :-1], handle.architecture.norm(ops, handle.config, x))
    following = Parts(x.spool, calibration.windows[:, 1:].split(PART))
    assert handle.architecture.draft
    drafted: Parts = handle.architecture.draft(ops, handle.config, following, normed)
    return drafted


class Block:
    """The weights of one block: read when they are wanted, quantized as the plan says, `made` by name without `.weight`."""

    def __init__(self, handle: ModelHandle, method: Method, warn: Callable[..., None] = SILENT.warn) -> None:
        self.handle, self.algorithm, self.warn = handle, method.algorithm, warn
        self.dtype = fastest_dtype()
        self.items = {item.name: item for item in method.calibrated}
        self.wanted = {name.removesuffix(".weight") for name in self.items}
        self.order = {name: torch.tensor(rows) for name, rows in handle.architecture.row_order(handle.config).items()}
        self.refs = {**handle.weights, **handle.draft_weights}
        self.readers = sole_readers(handle.architecture, handle.config) if method.algorithm.fold else {}
        self.made: dict[str, tuple[QuantizedTensor, Scheme]] = {}
        self.norms: dict[str, Tensor] = {}  # that scales were folded into
        self.scales: dict[str, Tensor] = {}  # what made weights were multiplied by for that, [in]
        self.notes: dict[str, Note] = {}
        self.plain: dict[str, float] = {}  # the error of PLAIN

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
        for batch in self._batches([name for name in names if name in self.wanted]):
            self._quantize(batch, statistics)
        norm = self.readers.get(tuple(names))
        if norm and self.wanted.issuperset(names):
            self._fold(norm, [self.items[f"{name}.weight"] for name in names], statistics)
        return [self._computed(name) for name in names]

    def _batches(self, names: Sequence[str]) -> list[list[Item]]:
        batches: list[list[Item]] = []
        for item in (self.items[f"{name}.weight"] for name in names):
            same = batches and batches[-1][0].scheme == item.scheme
            if same and sum(i.shape[0] * i.shape[1] for i in (*batches[-1], item)) <= TOGETHER:
                batches[-1].append(item)
            else:
                batches.append([item])
        return batches

    def _quantize(self, items: Sequence[Item], statistics: Statistics) -> None:
        weight = torch.cat([self._original(item.name) for item in items])
        scheme = items[0].scheme
        candidates: dict[str, Callable[..., QuantizedTensor]] = {PLAIN: search.quantize}
        if self.algorithm.quantize is not search.quantize:
            candidates[self.algorithm.name] = self.algorithm.quantize
        self._check(statistics, items[0].name)
        found = {}
        for name, quantize in candidates.items():
            try:
                found[name] = quantize(weight, scheme, statistics)
            except ValueError as error:  # the weight and its inputs are finite: the Hessian has no factor
                if name == PLAIN:
                    raise
                self._gave_up(items[0], error)
        start = 0
        for item in items:
            rows = slice(start, start + item.shape[0])
            start += item.shape[0]
            self._choose(item, weight[rows], {name: q.rows(rows) for name, q in found.items()}, statistics)

    def _check(self, statistics: Statistics, name: str) -> None:
        if not statistics.hessian.diagonal().isfinite().all():
            raise ModelCorrupt(
                "{model}: on the calibration text, the inputs of tensor {tensor} are not finite.",
                hint="Check the model: deepseek eval; or use --algorithm search, which looks at no text.",
                model=self.handle.root,
                tensor=name,
            )

    def _choose(self, item: Item, weight: Tensor, candidates: Mapping[str, QuantizedTensor], statistics: Statistics) -> None:
        """The candidate whose outputs are closest on the held-out tokens."""
        errors = {name: statistics.error(weight, q.dequantize()) for name, q in candidates.items()}
        best = min(errors, key=lambda name: errors[name])
        stem = item.name.removesuffix(".weight")
        self.plain[item.name] = max(errors[PLAIN], 1e-30)
        self.made[stem] = candidates[best], item.scheme
        self.notes[item.name] = Note(best, statistics.tokens, errors[best] / self.plain[item.name])

    def _fold(self, norm: str, items: Sequence[Item], statistics: Statistics) -> None:
        """Scales move into the norm from all weights behind it, if that lowers their outputs' errors on held-out tokens."""
        assert self.algorithm.fold
        ref = self.handle.tensors[f"{norm}.weight"]
        made, errors = {}, {}
        try:
            after = lightened(ref, self.algorithm.fold(self._sample(items), items[0].scheme, statistics))
            scale = lost(ref, after)
            within = statistics.over(scale)
            for item in items:
                weight = self._original(item.name) * scale
                quantized = self.algorithm.quantize(weight, item.scheme, within)
                made[item.name.removesuffix(".weight")] = quantized, item.scheme
                errors[item.name] = within.error(weight, quantized.dequantize()) / self.plain[item.name]
        except ValueError as error:
            self._gave_up(items[0], error)
            return
        if sum(errors.values()) < sum(self.notes[name].gain for name in errors):
            self.norms[norm] = after
            self.made |= made
            self.scales |= dict.fromkeys(made, scale)
            self.notes |= {name: Note(self.algorithm.name, statistics.tokens, gain) for name, gain in errors.items()}

    def _sample(self, items: Sequence[Item]) -> Tensor:
        """Rows of all these weights, evenly."""
        step = -(-sum(i.shape[0] * i.shape[1] for i in items) // TOGETHER)
        return torch.cat([self._original(item.name)[::step] for item in items])

    def _gave_up(self, item: Item, reason: ValueError) -> None:
        self.warn("{tensor}: {algorithm} gives up ({reason}).", tensor=item.name, algorithm=self.algorithm.name, reason=reason)

    def _original(self, name: str) -> Tensor:
        ref = self.handle.tensors[name]
        weight = dense(ref.read()).float()
        ref.release()
        if not weight.isfinite().all():
            raise ModelCorrupt(
                "{model}: tensor {tensor} holds a NaN or an infinity.",
                hint="Pull the model again; if it stays, the model is damaged.",
                model=self.handle.root,
                tensor=name,
            )
        return weight

    def _computed(self, name: str) -> Tensor:
        made = self.made.get(name)
        if made is None:
            weight = self.weight(f"{name}.weight")
            assert weight is not None
            return weight
        order = self.order.get(f"{name}.weight")
        values = dense(made[0] if order is None else take_rows(made[0], order))
        return (values / self.scales[name] if name in self.scales else values).to(self.dtype)
