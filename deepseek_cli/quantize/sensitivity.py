"""How much each unit of weights matters: the KL divergence that rounding it alone causes, and from it that of other schemes.

Rounding is imatrix's, since what calibration wins beyond it is not known before the whole model is calibrated.

One block's weights are in memory at a time, and all streams pass through it: the model's own, and for each unit met so far
the one in which only that unit is rounded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.evaluate import seconds_for as forward_seconds
from deepseek_cli.formats import compressed
from deepseek_cli.handle import ModelHandle
from deepseek_cli.memory import free_bytes
from deepseek_cli.ops.cost import count
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.ops.torch_parts import Held, Spool
from deepseek_cli.quantize import rtn, search
from deepseek_cli.quantize.allocate import Option
from deepseek_cli.quantize.grid import round_to_grid
from deepseek_cli.quantize.student import BLOCKS, last_hidden
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import HeldWeights, dense, dequantize, take_rows

Unit = Sequence[str]  # names without .weight, by which all else is called here too
SHARE = 0.25  # of the free memory, for the streams
CHUNK = 128  # positions whose logits are held at once
ROWS = 64  # of each weight, to compare schemes by


@dataclass(frozen=True, slots=True)
class Measured:
    """Mean KL divergence, in nats, of the model in which only `unit` is rounded, to `scheme`.

    `importance` is the mean square of each weight's inputs, [in], where products met any.
    """

    unit: Unit
    scheme: Scheme
    kl: float
    importance: Mapping[str, Tensor]


def options(handle: ModelHandle, measured: Measured, candidates: Sequence[Scheme]) -> list[Option]:
    """What each candidate would cost a unit: divergence grows as the square of its weights' error (HIGGS, theorem 1)."""
    error = max(squared_error(handle, measured, measured.scheme), 1e-30)
    return [
        Option(s, size_of(handle, measured.unit, s), measured.kl * squared_error(handle, measured, s) / error) for s in candidates
    ]


def size_of(handle: ModelHandle, unit: Unit, scheme: Scheme) -> int:
    """Bytes of the unit's weights, on disk."""
    total = 0
    for name in unit:
        out, inputs = handle.tensors[f"{name}.weight"].shape
        total += sum(part.size for part in compressed.planned_parts(name, (out, inputs), scheme))
    return total


def squared_error(handle: ModelHandle, measured: Measured, scheme: Scheme) -> float:
    """Σ (w − ŵ)² over the unit's weights, each input counting by its mean square; from evenly spaced rows of each weight."""
    total = 0.0
    for name in measured.unit:
        ref, importance = handle.tensors[f"{name}.weight"], measured.importance.get(name)
        looked_at = scheme.bits < 8 or name.startswith(BLOCKS)  # as `method.resolve` calibrates
        pick = torch.arange(0, ref.shape[0], max(ref.shape[0] // ROWS, 1))
        rows = dense(take_rows(ref.read(), pick)).float()
        ref.release()
        errors = (rows - rounded(rows, scheme, importance if looked_at else None)).square().sum(0)  # [in]
        total += float((errors if importance is None else errors * importance).sum()) * ref.shape[0] / len(pick)
    return total


def rounded(weight: Tensor, scheme: Scheme, importance: Tensor | None) -> Tensor:
    """What [out, in] weights become: at the scales that cost least; to nearest at eight bits where no input was looked at.

    Raises ValueError for a NaN.
    """
    if scheme.bits == 8 and importance is None:
        return rtn.quantize(weight, scheme).dequantize()
    grid = search.find_grid(weight, scheme, importance)
    codes = round_to_grid(rtn.in_groups(weight, grid.group), grid.scale, grid.zero, scheme.bits).flatten(1)
    middle = 1 << (scheme.bits - 1) if grid.zero is None else grid.zero
    return dequantize(codes[:, : weight.shape[1]], grid.scale, grid.group, middle)


@torch.no_grad()  # inference mode would not reach the threads that round
def measure(
    handle: ModelHandle, units: Sequence[Unit], tokens: Tensor, scheme: Scheme, reporter: Reporter = SILENT
) -> list[Measured]:
    """Each unit, rounded alone to `scheme` as `imatrix` would, over `tokens` [windows, length].

    Raises ModelCorrupt for a weight that holds a NaN.
    """
    arch, config, weights = handle.architecture, handle.config, Weights(handle, scheme)
    weights.importance[count(arch, config).head] = last_hidden(handle, tokens, torch.float32).flatten(0, 1).square().mean(0)
    stages: list[Callable[..., Tensor]] = [lambda ops, x: arch.embed(ops, config, tokens)]
    stages += [lambda ops, x, layer=layer: arch.block(ops, config, x, layer) for layer in range(config.layers)]
    stages += [lambda ops, x: arch.norm(ops, config, x)]
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(int(SHARE * free_bytes()), Path(folder, "streams"))
        original, streams = spool.keep(tokens), dict[int, Held]()
        for done, stage in enumerate(stages):
            weights.forget()
            after = spool.keep(stage(Watching(weights), original.load()))
            met = [i for i, unit in enumerate(units) if i in streams or weights.met(unit)]
            streams = {i: spool.keep(stage(weights.ops(units[i]), streams.get(i, original).load())) for i in met}
            original = after
            reporter.progress("measure", done + 1, len(stages) + 1)
        weights.forget()
        kls = _divergences(handle, weights, units, original, streams)
    reporter.progress("measure", len(stages) + 1, len(stages) + 1)
    seen = weights.importance
    return [
        Measured(unit, scheme, kl, {name: seen[name] for name in unit if name in seen})
        for unit, kl in zip(units, kls, strict=True)
    ]


def _divergences(
    handle: ModelHandle, weights: Weights, units: Sequence[Unit], original: Held, streams: dict[int, Held]
) -> list[float]:
    """Of each unit; one that was met nowhere before the head is rounded there, if anywhere."""
    arms = [(weights.ops(unit), streams.get(i, original).load().flatten(0, 1)) for i, unit in enumerate(units)]
    plain, normed = weights.ops(), original.load().flatten(0, 1)
    logits = lambda ops, x: handle.architecture.head(ops, handle.config, x[None])[0].log_softmax(-1)  # noqa: E731
    totals = [0.0] * len(units)
    for start in range(0, len(normed), CHUNK):
        rows = slice(start, start + CHUNK)
        p = logits(plain, normed[rows])
        for i, (ops, x) in enumerate(arms):
            totals[i] += float((p.exp() * (p - logits(ops, x[rows]))).sum(-1).double().sum())
    return [max(total / len(normed), 0.0) for total in totals]


class Weights:
    """A model's weights in float32, kept until `forget`; interpreters over them may see those of one unit rounded."""

    def __init__(self, handle: ModelHandle, scheme: Scheme) -> None:
        self.handle, self.scheme = handle, scheme
        self.original = HeldWeights(handle.weights)
        self.importance: dict[str, Tensor] = {}

    def forget(self) -> None:
        self.original.forget()

    def met(self, unit: Unit) -> bool:
        """Whether something has computed with the unit's weights."""
        return any(f"{name}.weight" in self.original.held for name in unit)

    def ops(self, unit: Unit = ()) -> TorchOps:
        names, own = {f"{name}.weight" for name in unit}, dict[str, Tensor]()

        def weight(name: str) -> Tensor | None:
            if name not in names:
                return self.original(name)
            if name not in own:
                own[name] = self._rounded(name)
            return own[name]

        return TorchOps(weight)

    def _rounded(self, name: str) -> Tensor:
        weight = self.original(name)
        assert weight is not None
        try:
            return rounded(weight, self.scheme, self.importance.get(name.removesuffix(".weight")))
        except ValueError:
            raise ModelCorrupt(
                "{model}: tensor {tensor} holds a NaN or an infinity.",
                hint="Pull the model again; if it stays, the model is damaged.",
                model=self.handle.root,
                tensor=name,
            ) from None


class Watching(TorchOps):
    """Computes, and keeps the mean square of what goes into each weight."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights.ops().weight)
        self.importance = weights.importance

    def linear(self, x: Tensor, name: str) -> Tensor:
        if x.numel():
            self.importance[name] = x.flatten(0, -2).square().mean(0)
        return super().linear(x, name)


def seconds_for(handle: ModelHandle, units: int, tokens: int) -> float:
    """A rough time for `measure`: each unit's stream passes half of the blocks, and the head."""
    head = handle.config.vocabulary * handle.config.hidden / handle.parameters
    return forward_seconds(handle, round(tokens * (1 + units * (1 + head) / 2)))
