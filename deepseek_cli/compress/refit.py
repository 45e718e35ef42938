"""What is left of each mixture makes good for the experts that went, layer after layer, towards what the whole model had there.

Dropped or merged, solved or learned: text that is not fitted to says of every layer what is closest, and further text whether
the predictions gain by it at all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from deepseek_cli.compress.fitting import STEPS, Rows, learned, solved
from deepseek_cli.compress.inputs import PART
from deepseek_cli.compress.merge import merged
from deepseek_cli.compress.mixture import Mixture, read_mixture
from deepseek_cli.compress.quality import divergence
from deepseek_cli.compress.shape import Context, Shape, dense_dtype, picked
from deepseek_cli.memory import free_bytes
from deepseek_cli.ops import GateSpec
from deepseek_cli.ops.torch_experts import Routes
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.ops.torch_parts import Parts, Spool
from deepseek_cli.quantize.calibration import read_calibration
from deepseek_cli.refs import TensorRef
from deepseek_cli.tensors import HeldWeights, dense

TOKENS = 65_536
MOST_VALUES = 1 << 26  # of what goes into one layer
HELD_OUT = 16  # one window in so many chooses for a layer, as many others judge the whole
RIDGES = (0.1, 1.0)
SHARE = 0.25  # of the free memory, for what goes into blocks, and for what learns
WAYS = ("drop", "merge", "learn")

Kept = Mapping[str, Sequence[int]]  # the experts that stay, by the prefix of a layer's experts


def refitted(whole: Shape, smaller: Shape, kept: Kept, context: Context) -> Shape:
    """`smaller`, cut from `whole`, with other weights in its mixtures; they are fitted when the first of them is read."""

    @cache
    def found() -> Mapping[str, TensorRef]:
        with torch.inference_mode(False):  # whoever reads a tensor may be in it
            return fit(whole, smaller, kept, context)

    def late(name: str, ref: TensorRef) -> TensorRef:
        def read() -> Tensor:
            return dense(found().get(name, picked(ref)).read()).to(dense_dtype(ref))

        return replace(picked(ref), read=read)

    config, stored = smaller.handle.config, smaller.handle.stored
    fitted = tuple(f"model.layers.{i}.mlp." for i in range(config.layers) if config.gate_of(i))
    weights = {n for n in stored if n.startswith(fitted) and n.endswith(".weight")}
    return smaller.with_model({}, {name: late(name, ref) if name in weights else ref for name, ref in stored.items()})


def fit(whole: Shape, smaller: Shape, kept: Kept, context: Context, ways: Sequence[str] = WAYS) -> dict[str, TensorRef]:
    """The new weights; none where the predictions of held-out text are no closer with them to those of `whole`."""
    handle = whole.handle
    tokens = min(TOKENS, MOST_VALUES // handle.config.hidden)
    windows = read_calibration(whole.tokenizer, context.source, tokens, handle.config.context).windows
    held = max(len(windows) // HELD_OUT, 1)
    folder = Path(tempfile.mkdtemp(dir=context.folder))
    fitted = dict[str, TensorRef]()
    with torch.no_grad():
        for mixture in each_fitted(whole, smaller, kept, windows[:-held], held, replace(context, folder=folder), ways):
            written = {name: w.to(dense_dtype(smaller.handle.tensors[name])) for name, w in mixture.weights.items()}
            fitted |= context.keep(f"{folder.name}/{mixture.name}", written)
    before = replace(smaller, kept=None)
    after = replace(before, handle=replace(smaller.handle, tensors={**smaller.handle.tensors, **fitted}))
    facts = {name: divergence(handle, shape, windows[-held:]) for name, shape in (("before", before), ("after", after))}
    if not facts["after"] < facts["before"]:
        context.reporter.note(
            "Fitting the experts that stay did not help: KL divergence {before:.4g} → {after:.4g}. Left out.", **facts
        )
        return {}
    context.reporter.note("Experts that stay were fitted: KL divergence {before:.4g} → {after:.4g} on held-out text.", **facts)
    return fitted


def each_fitted(
    whole: Shape, smaller: Shape, kept: Kept, windows: Tensor, held: int, context: Context, ways: Sequence[str]
) -> Iterator[Mixture]:
    """Each layer sees what those below it give by now, and goes by what `whole` had behind it; the last `held` windows choose."""
    handle, spool = whole.handle, Spool(int(SHARE * free_bytes()), context.folder / "inputs")
    arch, config, less = handle.architecture, handle.config, smaller.handle.config
    original, own = HeldWeights(handle.weights), HeldWeights(smaller.handle.weights)
    wanted = given = Parts(spool, (arch.embed(TorchOps(original), config, part) for part in windows.split(PART)))
    for layer in range(config.layers):
        original.forget()
        own.forget()
        wanted = Parts(spool, (arch.block(TorchOps(original), config, x, layer) for x in wanted))
        met, outputs = list[Meeting](), list[Tensor]()
        for x in given:
            met.append(Meeting(own))
            outputs.append(arch.block(met[-1], less, x, layer))
        if spec := less.gate_of(layer):
            start = read_mixture(own, met[0].name, spec)
            rows = _rows(start, torch.cat([m.inputs for m in met]), wanted, outputs)
            full = read_mixture(original, start.name, config.gate_of(layer))
            mixture = closest(full, start, kept[f"{start.name}.experts"], rows, held * windows.shape[1], ways)
            own.held.update(mixture.weights)
            outputs = [arch.block(TorchOps(own), less, x, layer) for x in given]
            yield mixture
        given = Parts(spool, outputs)
        context.reporter.progress("fit experts", layer + 1, config.layers)


class Meeting(TorchOps):
    """Computes, and keeps what goes into the mixture that it meets."""

    def experts(self, x: Tensor, routes: Routes, name: str, spec: GateSpec) -> Tensor:
        self.name, self.inputs = name.removesuffix(".experts"), x.flatten(0, -2)
        return super().experts(x, routes, name, spec)


def _rows(mixture: Mixture, inputs: Tensor, wanted: Parts, outputs: Sequence[Tensor]) -> Rows:
    """What it would have to give; errors count relatively to what they are added to, since a norm comes next."""
    stream = torch.cat([part.flatten(0, 1) for part in wanted])
    left = stream - torch.cat([part.flatten(0, 1) for part in outputs])
    return Rows(inputs, mixture(inputs) + left, 1 / stream.norm(dim=-1).clamp_min(1e-20))


def closest(full: Mixture, start: Mixture, kept: Sequence[int], rows: Rows, held: int, ways: Sequence[str]) -> Mixture:
    """That way of making good for the experts that went which comes closest on the last `held` tokens, fitted to the others."""
    fitted, others = rows[:-held], rows[-held:]
    starts = [start] if "drop" in ways else []
    if "merge" in ways:
        starts.append(merged(full, start, kept, fitted.inputs))
    tried = [*starts, *(solved(mixture, fitted, ridge) for mixture in starts for ridge in RIDGES)]
    best = min(tried, key=others.error)
    # what learns has a slope and two moments beside itself, of four bytes each
    if "learn" not in ways or 16 * sum(w.numel() for w in best.weights.values()) > SHARE * free_bytes():
        return best
    return min(best, learned(best, fitted, STEPS), key=others.error)
