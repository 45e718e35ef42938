"""How far a bundle is proven equal to the model it was made from: structure (L0), weights (L1), logits (L2), tokens (L3).

What was written is read back by the target; L2 and L3 run in the target's own runtime, against the PyTorch interpreter.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.deploy.outputs import CONTEXT, NEW_TOKENS, TEXT_TOKENS, Check, compare_outputs
from deepseek_cli.deploy.target import Target
from deepseek_cli.errors import MissingExtra
from deepseek_cli.evaluate import seconds_for
from deepseek_cli.formats.nbits import BLOCKS
from deepseek_cli.handle import ModelHandle
from deepseek_cli.memory import free_bytes
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.tensors import BlockTensor, CorrectedTensor, QuantizedTensor, Weight, dense

LEVELS = ("structure", "weights", "logits", "tokens")  # L0 to L3
LONGEST_SECONDS = 120
BYTES_PER_SECOND = 8e9  # of float32 weights that a decoding step reads; a cautious figure


def verify(
    target: Target,
    handle: ModelHandle,
    folder: Path,
    level: str | None = None,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Check a bundle up to `level`, by default as far as memory and two minutes allow, and at least its weights.

    Gives back {"level", "runtime", "failed", "checks"}, and "unrun" where another runtime stands in; a check that fails ends
    it, and its level is not reached.
    Raises MissingExtra where the target's runtime is wanted and not installed.
    """
    level = level or affordable(target, handle)
    wanted = LEVELS.index(level) + 1
    runtime = runtime_of(target, needed=needs_runtime(target, level, handle))
    held = target.held(folder)
    checks = [called(name, check_structure(part, handle, place, threads)) for name, place, part in held]
    if wanted > 1 and passed(checks):
        reporter.progress("verify", 1, wanted)
        checks += [called(name, check_weights(part, handle, place)) for name, place, part in held]
    if wanted > 2 and passed(checks):
        reporter.progress("verify", 2, wanted)
        for name, place, part in held:
            open_part = partial(part.open_folder, place, handle.config, CONTEXT, threads)
            found = compare_outputs(part.reference(handle, place), open_part, threads, tokens=wanted > 3)
            checks += [called(name, check) for check in found]
    reporter.progress("verify", wanted, wanted)
    failed = [int(check["level"][1]) for check in checks if not check["ok"]]
    reached = min(failed) - 1 if failed else wanted - 1
    return {
        "level": f"L{reached}" if reached >= 0 else None,
        "runtime": runtime,
        "failed": bool(failed),
        "checks": checks,
    } | ({"unrun": list(target.unrun)} if target.unrun else {})


def runtime_of(target: Target, *, needed: bool) -> str | None:
    """Name and version of what runs the target's bundles. Raises MissingExtra where it is `needed` and not installed."""
    try:
        return target.runtime()
    except MissingExtra:
        if needed:
            raise
        return None


def needs_runtime(target: Target, level: str | None, handle: ModelHandle) -> bool:
    return LEVELS.index(level or affordable(target, handle)) > LEVELS.index("weights")


def affordable(target: Target, handle: ModelHandle) -> str:
    """The highest level whose estimate fits in free memory and LONGEST_SECONDS."""
    dense_bytes = 4 * handle.parameters
    if dense_bytes + 2 * handle.size_bytes > free_bytes():
        return "weights"
    parts = 1 + len(target.parts)
    logits = parts * ((1 + target.slowness) * seconds_for(handle, TEXT_TOKENS) + 2 * dense_bytes / 1e9)
    tokens = logits + parts * 2 * target.slowness * NEW_TOKENS * dense_bytes / BYTES_PER_SECOND
    return "tokens" if tokens <= LONGEST_SECONDS else "logits" if logits <= LONGEST_SECONDS else "weights"


def called(part: str, check: Check) -> Check:
    """The check, its name with that of the part it concerns."""
    return check | {"name": f"{part}: {check['name']}"} if part else check


def passed(checks: list[Check]) -> bool:
    return all(check["ok"] for check in checks)


def check_structure(target: Target, handle: ModelHandle, folder: Path, threads: int | None) -> Check:
    missing = target.unexpected(handle, folder, threads)
    result = f"{handle.config.layers} layers load" if not missing else f"not as expected: {', '.join(missing[:3])}"
    return {"level": "L0", "name": "structure", "result": result, "ok": not missing}


def check_weights(target: Target, handle: ModelHandle, folder: Path) -> Check:
    """Every weight that the model computes with, as the target reads it back; all that drafts, or nothing of it."""
    weights, drafting, left_out = handle.weights, handle.draft_weights, sorted(target.left_out(handle))
    same: set[str] = {*left_out}
    wrong: set[str] = set()
    for name, found in target.read_back(handle, folder):
        if name in drafting:
            weights |= drafting
        ref = weights.get(name)
        if ref is None:  # a linear without bias, fused with one that has it
            (same if not dense(found).any() else wrong).add(name)
            continue
        (same if same_bits(ref.read(), found) else wrong).add(name)
        ref.release()
    differing = sorted(wrong | (weights.keys() - same))
    count = len(weights.keys() - left_out)
    result = (
        f"{len(differing)} of {count} tensors differ: {', '.join(differing[:3])}"
        if differing
        else f"{count} tensors equal, bit for bit"
    )
    check = {"level": "L1", "name": "weights", "result": result, "ok": not differing, "tensors": count, "differing": differing}
    return check | ({"left_out": left_out} if left_out else {})


def same_bits(expected: Weight, found: Weight) -> bool:
    """Equal codes, and equal scales and zero points for each input; a dense `found` has the values as its dtype holds them."""
    if isinstance(found, Tensor):
        return torch.equal(dense(expected).float().to(found.dtype), found)
    if isinstance(expected, BlockTensor) and isinstance(found, BlockTensor):
        return expected.format == found.format and torch.equal(expected.raw, found.raw)
    if isinstance(expected, CorrectedTensor) and isinstance(found, CorrectedTensor):
        return same_bits(expected.rounded, found.rounded) and same_correction(expected, found)
    if not isinstance(expected, QuantizedTensor) or not isinstance(found, QuantizedTensor):
        return False
    if expected.permutation is not None or (expected.offset is None) != (found.offset is None):
        return False
    inputs = torch.arange(0, found.shape[1], BLOCKS[-1])  # no border of a group or block lies between two of them
    spread = lambda t, values: values[:, inputs // t.group] if isinstance(values, Tensor) else torch.tensor(values)  # noqa: E731
    return (
        expected.bits == found.bits
        and torch.equal(expected.packed, found.packed)
        and torch.equal(spread(expected, expected.scale), spread(found, found.scale))
        and (expected.offset is None or torch.equal(spread(expected, expected.offset), spread(found, found.offset)))
        and bool((spread(expected, expected.zero_point) == spread(found, found.zero_point)).all())
    )


def same_correction(expected: CorrectedTensor, found: CorrectedTensor) -> bool:
    """Equal factors, as the dtype of those `found` holds them, but for ranks that add nothing."""
    ours, theirs = ((weight.up != 0).any(0) for weight in (expected, found))
    up, down = (factor.to(found.up.dtype) for factor in (expected.up[:, ours], expected.down[ours]))
    return torch.equal(up, found.up[:, theirs]) and torch.equal(down, found.down[theirs])
