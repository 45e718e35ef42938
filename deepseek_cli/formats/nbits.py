"""How ONNX Runtime's MatMulNBits and GatherBlockQuantized hold a quantized weight: ours, bit for bit, and back again.

Both want codes along the input, least significant bits first, in blocks of a power of two; a short last block is
padded with zero codes, which meet no input. Groups of another size become several blocks with one scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.tensors import BlockTensor, CorrectedTensor, Fp8Tensor, QuantizedTensor, Weight, pack, unpack

BLOCKS = (256, 128, 64, 32, 16)
Coded = QuantizedTensor | CorrectedTensor | BlockTensor | Fp8Tensor


@dataclass(frozen=True, slots=True)
class NBits:
    """A weight [out, in] in blocks of `block` inputs."""

    packed: Tensor  # uint8 [out, blocks, block * bits / 8]
    scale: Tensor  # float32 [out, blocks]
    zero: Tensor | None  # uint8 [out, ceil(blocks * bits / 8)]; without it the zero point is 2 ** (bits - 1)
    bits: int
    block: int
    inputs: int

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def layout(self) -> tuple[int, int, int, bool]:
        """Weights over one input that agree in this can be one product."""
        return self.bits, self.block, self.inputs, self.zero is None


def unfit(weight: Coded) -> str:
    """Why these operators cannot hold `weight` as it is; "" when they can."""
    if isinstance(weight, Fp8Tensor):
        return "ONNX Runtime has no products with FP8 weights on CPUs"
    if isinstance(weight, BlockTensor):
        return f"the {weight.format} format has no counterpart in ONNX Runtime"
    if isinstance(weight, CorrectedTensor):
        return "an operator of codes has no place for its low-rank correction"
    if weight.irregular:
        return weight.irregular
    if not block_of(weight.group, weight.shape[1]):
        return f"groups of {weight.group} are no multiple of {BLOCKS[-1]}"
    return ""


def block_of(group: int, inputs: int) -> int:
    """The largest block whose border never cuts a group, or 0. A single group per row prefers blocks that need no padding."""
    length = inputs if group >= inputs else group
    block = next((b for b in BLOCKS if length % b == 0), 0)
    return block or (32 if group >= inputs else 0)


def to_nbits(weight: QuantizedTensor, block: int = 0) -> NBits:
    """The same codes and scales; `unfit(weight)` must be empty. `block` may ask for smaller blocks than are needed."""
    inputs, block = weight.shape[1], block or block_of(weight.group, weight.shape[1])
    blocks = -(-inputs // block)
    width = block * weight.bits // 8
    packed = F.pad(weight.packed, (0, blocks * width - weight.packed.shape[1])) if inputs % block else weight.packed
    zero = None
    if weight.zero is not None:
        zero = spread(weight.zero, weight.group, block, blocks)
        zero = pack(F.pad(zero, (0, blocks % 2)), 4) if weight.bits == 4 else zero
    scale = spread(weight.scale, weight.group, block, blocks)
    return NBits(packed.view(-1, blocks, width), scale, zero, weight.bits, block, inputs)


def spread(values: Tensor, group: int, block: int, blocks: int) -> Tensor:
    """One value per group, [out, groups], to one per block, [out, blocks]."""
    return values if group == block else values[:, torch.arange(blocks) * block // group].contiguous()


def from_nbits(weight: NBits) -> QuantizedTensor:
    blocks = weight.packed.shape[1]
    packed = weight.packed.flatten(1)[:, : weight.inputs * weight.bits // 8]
    zero = None if weight.zero is None else unpack(weight.zero, weight.bits)[:, :blocks]
    return QuantizedTensor(packed, weight.scale, weight.bits, weight.block, zero)


def stacked_block(weights: Iterable[Weight]) -> int:
    """The one block size in which QMoE can hold all these weights, each filling whole blocks; 0 where there is none."""
    block, kinds = BLOCKS[0], set()
    for weight in weights:
        if not isinstance(weight, QuantizedTensor) or unfit(weight):
            return 0
        inputs = weight.shape[1]
        block = min(block, block_of(weight.group, inputs))
        kinds.add((weight.bits, weight.zero is None))
        if inputs % block or len(kinds) > 1 or (weight.zero is not None and inputs // block % 2):
            return 0
    return block


def interleave(gate: Tensor, up: Tensor) -> Tensor:
    """Rows g0, u0, g1, u1 …, as QMoE wants a gated MLP's first product."""
    return torch.stack((gate, up), dim=1).flatten(0, 1)
