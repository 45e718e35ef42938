"""Low-rank corrections in a graph: two small products beside the one of the codes, whatever number of weights it fuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir
import torch

from deepseek_cli.tensors import CorrectedTensor

if TYPE_CHECKING:
    from deepseek_cli.ops.onnx_ops import OnnxOps

UP, DOWN = "correction_up", "correction_down"


def corrected(ops: OnnxOps, y: ir.Value, x: ir.Value, names: Sequence[str]) -> ir.Value:
    """y, the product of x and the codes of all weights, with what their corrections add; itself where they have none.

    Corrections of several weights are one: `down` has the rows of all, `up` lies in blocks along the diagonal.
    """
    weights = [ops.tensors[f"{name}.weight"].read() for name in names]
    if not any(isinstance(weight, CorrectedTensor) for weight in weights):
        return y
    factors = [(w.up, w.down) if isinstance(w, CorrectedTensor) else nothing(*w.shape) for w in weights]
    label, node = ",".join(names), ops.graph.node
    down = ops.graph.constant(f"{label}.{DOWN}", *(ops._cast(down, label) for _, down in factors))  # [ranks, in]
    up = ops.graph.constant(f"{label}.{UP}", ops._cast(torch.block_diag(*(up for up, _ in factors)), label))  # [out, ranks]
    narrow = node("FusedMatMul", [x, down], f"{label}.narrow", transB=1)
    return node("Add", [y, node("FusedMatMul", [narrow, up], f"{label}.correction", transB=1)], f"{label}.corrected")


def nothing(out: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(out, 0), torch.zeros(0, inputs)
