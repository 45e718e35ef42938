"""How the writing interpreter multiplies in int8 where a row of weights has one scale: activations are rounded by token.

MatMulNBits would repeat that scale for every few dozen inputs, at half the speed for a prompt. Rounding a tensor as a whole
(DynamicQuantizeMatMul) would let a token's logits depend on what else is fed with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir
import torch

from deepseek_cli.formats.nbits import NBits
from deepseek_cli.ops.token_rounding import MIDDLE, MOST, PRODUCT, STEP

if TYPE_CHECKING:
    from deepseek_cli.ops.onnx_ops import OnnxOps

IN_BLOCKS = "v_proj"  # a third of all divergence came from rounding what it reads by token (benchmarks/LOG.md, entry 54)
SIGN = 0x80  # between a code from 0 to 255 and the signed one


def has_row_scales(w: NBits) -> bool:
    return w.bits == 8 and w.zero is None and bool((w.scale == w.scale[:, :1]).all())


def token_product(ops: OnnxOps, x: ir.Value, label: str, weights: Sequence[NBits]) -> ir.Value:
    """x @ [rows of all weights]ᵀ"""
    codes, most = _rounded(ops, x)
    held = ops.graph.constant(f"{label}.turned", _turned(weights))
    scale = ops.graph.constant(f"{label}.row_scales", *(w.scale[:, 0].contiguous() for w in weights))
    step, middle = _step(ops), _middle(ops)
    product = ops.graph.node(PRODUCT, [codes, held, step, scale, middle], label, weights=label)
    return ops.graph.node("Mul", [product, most], f"{label}.scaled")


def _rounded(ops: OnnxOps, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """uint8 codes, and each token's greatest magnitude; once for all products of `x`. A token of zeros is divided by zero, but
    whatever its codes are, they will be multiplied by zero."""
    if x not in ops.rounded:
        graph = ops.graph
        most = graph.node("ReduceMax", [graph.node("Abs", [x]), ops._integers(-1)], keepdims=1)
        unit = graph.node("Div", [x, most])
        ops.rounded[x] = graph.node("QuantizeLinear", [unit, _step(ops), _middle(ops)]), most
    return ops.rounded[x]


def _step(ops: OnnxOps) -> ir.Value:
    return ops.graph.constant(STEP, torch.tensor([1 / MOST]), shape=())


def _middle(ops: OnnxOps) -> ir.Value:
    return ops.graph.constant(MIDDLE, torch.tensor([MOST + 1], dtype=torch.uint8), shape=())


def _turned(weights: Sequence[NBits]) -> torch.Tensor:
    """int8 [in, out]"""
    rows = torch.cat([w.packed.flatten(1)[:, : w.inputs] for w in weights])
    return (rows ^ SIGN).view(torch.int8).T.contiguous()
