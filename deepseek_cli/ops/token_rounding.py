"""Products in int8, a scale for each row of weights and one for each token: what a graph's own nodes say of them.

    y[t, o] = (sum over i of x8[t, i] * w8[o, i]) * step * scale[o] * most[t],    x8 = round(x / (step * most[t])), step = 1 / 127

Written by onnx_tokens.py; here is what becomes of them where nothing should be rounded, and where bytes cannot be multiplied.
"""

from __future__ import annotations

from typing import Any

MOST = 127  # the greatest code, of either sign
MOST_NARROW = 63
STEP, MIDDLE = "rounding.step", "rounding.middle"  # initializers
PRODUCT = "MatMulIntegerToFloat"
CODES, SCALE = 1, 3  # inputs of a product


def exact(graph: Any) -> None:
    """The same products of activations as they are: a product's input is what was divided and rounded, and what would have
    been multiplied by the divisor is the product itself."""
    from onnx import helper

    before = {node.output[0]: node.input[0] for node in graph.node if node.op_type in ("Div", "QuantizeLinear")}
    products, nodes = set(), []
    for node in graph.node:
        if node.op_type == PRODUCT:
            products.add(node.output[0])
            dense, x = f"{node.name}.dense", before[before[node.input[0]]]
            nodes.append(helper.make_node("DequantizeLinear", [node.input[CODES], node.input[SCALE]], [dense], axis=1))
            node = helper.make_node("MatMul", [x, dense], node.output, node.name)
        elif node.op_type == "Mul" and node.input[0] in products:
            node = helper.make_node("Identity", node.input[:1], node.output, node.name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def narrow(model: Any) -> None:
    """Codes of 7 bits: processors that sum two products of bytes in 16 bits cannot overflow then."""
    import numpy as np
    from onnx import numpy_helper

    values = {STEP: np.float32(1 / MOST_NARROW), MIDDLE: np.uint8(MOST_NARROW + 1)}
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(values[tensor.name]), tensor.name))
