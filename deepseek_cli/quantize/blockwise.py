"""Quantizing with calibration: block after block, each seeing what those before it have become.

One block's weights are read at a time; activations beyond a budget lie on disk; each finished block is kept, so that a run
that was stopped goes on behind it with the same result.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from deepseek_cli.handle import ModelHandle
from deepseek_cli.memory import free_bytes
from deepseek_cli.ops.cost import count
from deepseek_cli.ops.norms import sole_readers
from deepseek_cli.ops.torch_parts import Parts, Spool, fastest_dtype, over_parts
from deepseek_cli.quantize.calibrate import CalibratingOps
from deepseek_cli.quantize.calibration import Calibration
from deepseek_cli.quantize.checkpoint import Checkpoint
from deepseek_cli.quantize.method import Method
from deepseek_cli.quantize.rounding import Weights
from deepseek_cli.quantize.spread import LOCAL, Engine
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.tensors import TensorRef

PART = 4  # windows that are computed at once
SHARE = 0.25  # of the free memory, for activations and Hessians
HESSIANS = 4  # of the widest input at once: the one that was gathered, the drift's, a factor, and what is in between


def quantize_blocks(
    handle: ModelHandle, method: Method, checkpoint: Checkpoint, reporter: Reporter = SILENT, engine: Engine = LOCAL
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
            weights = _weights(handle, method, engine)
            ops = CalibratingOps(weights, method.algorithm.needs == "both")
            x = _enter(handle, method, ops, checkpoint, block)
            x = _draft(ops, handle, calibration, x) if block == config.layers else arch.block(ops, config, x, block)
            if block == config.layers - 1:
                _round_head(ops, handle, x)
        rounded = weights.rounded
        for name in rounded.made:  # the original beside it read their pages anew, for each part of the text
            handle.tensors[f"{name}.weight"].release()
        for failure in rounded.failures:
            reporter.warn("{tensor}: {algorithm} gives up ({reason}).", **failure)
        checkpoint.save_codes(block, rounded.made, rounded.norms, {name: asdict(note) for name, note in rounded.notes.items()})
        checkpoint.save_hidden(block, x)
        reporter.progress("calibrate", block + 1, len(blocks))
    return checkpoint.codes()


def _weights(handle: ModelHandle, method: Method, engine: Engine) -> Weights:
    """Of the whole model, none of them quantized yet."""
    items = {item.name: item for item in method.calibrated}
    order = {name: torch.tensor(rows) for name, rows in handle.architecture.row_order(handle.config).items()}
    refs = {**handle.weights, **handle.draft_weights}
    readers = sole_readers(handle.architecture, handle.config) if method.algorithm.fold else {}
    return Weights(handle.root, items, handle.tensors, refs, order, method.algorithm, fastest_dtype(), engine, readers)


def _enter(handle: ModelHandle, method: Method, ops: CalibratingOps, checkpoint: Checkpoint, block: int) -> Parts:
    hessians = HESSIANS * 4 * max(item.shape[1] for item in method.calibrated) ** 2
    spool = Spool(max(int(SHARE * free_bytes()) - hessians, 0), checkpoint.folder / "activations")
    if block:
        return checkpoint.hidden(block - 1, spool)
    assert method.calibration
    embedded: Parts = handle.architecture.embed(ops, handle.config, Parts(spool, method.calibration.windows.split(PART)))
    return embedded


def _round_head(ops: CalibratingOps, handle: ModelHandle, x: Parts) -> None:
    """With the last block, whose outputs it meets; what a tied one embeds was computed with as it was."""
    cost = count(handle.architecture, handle.config)
    if ops.weights.wants(cost.head):
        ops.round_head(handle.architecture.norm(ops, handle.config, x), cost.head, cost.head in cost.embeddings)


def _draft(ops: CalibratingOps, handle: ModelHandle, calibration: Calibration, x: Parts) -> Parts:
    """The layer that drafts: from the hidden state of a token, and the token that follows it."""
    normed = over_parts(lambda part: part[:, :-1], handle.architecture.norm(ops, handle.config, x))
    following = Parts(x.spool, calibration.windows[:, 1:].split(PART))
    assert handle.architecture.draft
    drafted: Parts = handle.architecture.draft(ops, handle.config, following, normed)
    return drafted
