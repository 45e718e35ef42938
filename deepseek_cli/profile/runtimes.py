"""What each runtime holds beside weights and KV cache. The constants were measured with `deepseek profile`, Linux x86-64.

PyTorch 2.13 (CPU) and ONNX Runtime 1.31, on models of 5 to 135 million parameters: libraries are what is resident after the
first tokens, less what has a size of its own. Other versions and systems differ by some tens of MB.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from deepseek_cli.profile.sketch import Sketch
from deepseek_cli.profile.weights import Stored
from deepseek_cli.schemes import PATTERN, parse_scheme

MIB = 1 << 20
FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Runtime:
    """`chunk` tokens of a prompt are computed at once, `latent_chunk` with latent attention."""

    help: str
    libraries_bytes: int  # Python, code and heap
    chunk: int
    latent_chunk: int
    fused: tuple[str, ...]  # the kinds of attention that hold no scores
    activation_bytes: int  # of a value
    copies: int = 1  # of activations: those a kernel reads, those it writes, what the allocator keeps


RUNTIMES = {
    "PyTorch": Runtime("computes with float32 weights", 236 * MIB, 512, 512, (), FLOAT32, copies=2),
    "ONNX Runtime": Runtime("packs weights for its kernels", 69 * MIB, 128, 256, ("plain",), FLOAT32, copies=2),
    "packed": Runtime("keeps weights as they are stored", 69 * MIB, 512, 512, ("plain", "latent"), 2),
}


def resident_weights(runtime: str, stored: Sequence[Stored]) -> int:
    """Bytes that the weights take once they are loaded."""
    match runtime:
        case "PyTorch":
            return sum(FLOAT32 * s.parameters for s in stored)
        case "ONNX Runtime":
            return sum(_packed(s) for s in stored)
    return sum(s.size_bytes for s in stored)


def load_peak(runtime: str, stored: Sequence[Stored], loaded: int, tied: bool, threads: int | None = None) -> int:
    """The most that loading holds, libraries left out: beside what is loaded, the weight that is being converted.

    ONNX Runtime packs weights on all its `threads`; on more than one it keeps the file's pages until the last is packed.
    """
    if runtime == "PyTorch":  # in the order of the model, and the file's pages go with each
        held = most = 0
        for s in stored:
            held += FLOAT32 * s.parameters
            most = max(most, held + s.size_bytes)
        return most
    if runtime != "ONNX Runtime":
        return loaded
    if (threads or os.cpu_count() or 1) > 1:
        return loaded + sum(s.size_bytes for s in stored) - left_mapped(stored, tied)
    return loaded + max((s.size_bytes for s in stored), default=0)


def left_mapped(stored: Sequence[Stored], tied: bool) -> int:
    """Pages of the file that stay resident behind packed copies: scales, and a dense head that is the embedding too."""
    scales = sum(s.size_bytes for s in stored if PATTERN.fullmatch(s.form) and not s.parameters)
    heads = sum(s.size_bytes for s in stored if tied and s.layer == "embedding" and not PATTERN.fullmatch(s.form))
    return scales + heads


def activations(runtime: str, sketch: Sketch, context: int, batch: int, chunk: int | None = None) -> int:
    """Bytes of what flows between layers while the last chunk, of `chunk` tokens if not the runtime's own, is fed of a prompt
    that fills the context."""
    facts, latent = RUNTIMES[runtime], bool(getattr(sketch.config, "latent", None))
    chunk = min(chunk or (facts.latent_chunk if latent else facts.chunk), context)
    cost = sketch.count(chunk, context - chunk, batch)
    values = facts.copies * cost.activation_peak
    if ("latent" if latent else "plain") not in facts.fused:
        values += cost.attention_peak
    return facts.activation_bytes * values


def _packed(s: Stored) -> int:
    """ONNX Runtime copies codes and scales into its kernels' order, adds a sum for every group, and leaves the scales' pages."""
    match = PATTERN.fullmatch(s.form)
    group = parse_scheme(s.form).group if match else 0
    return s.size_bytes + (2 * FLOAT32 * s.parameters // group if group else 0)
