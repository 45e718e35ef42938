"""Rows of a quantized embedding out of operators that every build of ONNX Runtime has: its WebAssembly with WebGPU lacks
GatherBlockQuantized on the processor's side."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from deepseek_cli.ops.onnx_graph import Graph

FLOAT = ir.DataType.FLOAT


def gather_rows(
    graph: Graph,
    name: str,
    tokens: ir.Value,
    parts: tuple[ir.Value, ir.Value, ir.Value | None],
    bits: int,
    blocks: int,
    integers: Callable[..., ir.Value],
    floats: Callable[..., ir.Value],
) -> ir.Value:
    """(code - zero) * scale as float32 [batch, sequence, inputs]; `parts` are codes, scales and zero points, a row a token."""
    codes, scale, zero = parts

    def numbers(value: ir.Value, weights: str = "") -> ir.Value:
        """Of each token's row, one float for each code: a byte holds two codes of 4 bits, the first in its low half."""
        taken = graph.node("Cast", [graph.node("Gather", [value, tokens], weights=weights)], to=FLOAT)
        if bits == 8:
            return taken
        high = graph.node("Floor", [graph.node("Mul", [taken, floats(1 / 16)])])
        low = graph.node("Sub", [taken, graph.node("Mul", [high, floats(16.0)])])
        both = [graph.node("Unsqueeze", [half, integers(-1)]) for half in (low, high)]
        return graph.node("Reshape", [graph.node("Concat", both, axis=-1), integers(0, 0, -1)])

    grouped = graph.node("Reshape", [numbers(codes, name), integers(0, 0, blocks, -1)])
    middle = floats(float(1 << (bits - 1)))
    if zero is not None:  # of an odd number of blocks, the last byte holds one code too many
        middle = graph.node("Slice", [numbers(zero), integers(0), integers(blocks), integers(2)])
        middle = graph.node("Unsqueeze", [middle, integers(-1)])
    scales = graph.node("Unsqueeze", [graph.node("Gather", [scale, tokens]), integers(-1)])
    rows = graph.node("Mul", [graph.node("Sub", [grouped, middle]), scales])
    return graph.node("Reshape", [rows, integers(0, 0, -1)], f"{name}.rows.float")
