"""The graph for prompts computes what MatMulNBits computes, as far as int8 can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.ops.onnx_int8 import write_int8

INPUTS, OUTPUTS, TOKENS = 48, 40, 7
DRAW = np.random.default_rng(0)


def bundle(folder: Path, bits: int = 4, block: int = 16, zeros: bool = False, bias: bool = False) -> Path:
    """A product whose result is a cache's, and another behind it, for logits."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = -(-INPUTS // block)
    width = -(-blocks * bits // 8)
    arrays = {
        "codes": DRAW.integers(0, 256, (OUTPUTS, blocks, block * bits // 8)).astype(np.uint8),
        "scales": DRAW.uniform(0.01, 0.1, (OUTPUTS, blocks)).astype(np.float32),
        "zeros": DRAW.integers(0, 256, (OUTPUTS, width)).astype(np.uint8),
        "bias": DRAW.standard_normal(OUTPUTS).astype(np.float32),
    }
    inputs = ["x", "codes", "scales", "zeros" if zeros else "", "", "bias" if bias else ""]
    settings = {"K": INPUTS, "N": OUTPUTS, "bits": bits, "block_size": block, "accuracy_level": 0}
    nodes = [
        helper.make_node("MatMulNBits", inputs, ["present"], "product", domain="com.microsoft", **settings),
        helper.make_node("Neg", ["present"], ["logits"]),
    ]
    kept = [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in inputs]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "present")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "tokens", INPUTS])
    graph = helper.make_graph(nodes, "toy", [x], values, kept)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    return folder / "model.onnx"


def outcome(path: Path, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["present"], {"x": x})[0])


def turned(path: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "prefill"
    folder.mkdir()
    return write_int8(path, folder, head=False)


@pytest.mark.parametrize(
    "options",
    [{}, {"bits": 8}, {"zeros": True}, {"bits": 8, "zeros": True}, {"bias": True}, {"block": 32}],  # 32 leaves half a block
    ids=str,
)
def test_products_are_those_of_the_bundle(tmp_path: Path, options: dict[str, Any]) -> None:
    path = bundle(tmp_path / "bundle", **options)
    x = DRAW.standard_normal((1, TOKENS, INPUTS)).astype(np.float32)
    exact, found = outcome(path, x), outcome(turned(path, tmp_path), x)
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def test_an_outlying_token_leaves_the_others_their_precision(tmp_path: Path) -> None:
    path = bundle(tmp_path / "bundle")
    x = DRAW.standard_normal((1, TOKENS, INPUTS)).astype(np.float32)
    x[0, 0] *= 10_000
    exact, found = outcome(path, x)[0, 1:], outcome(turned(path, tmp_path), x)[0, 1:]
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def test_a_token_of_zeros_gives_zeros(tmp_path: Path) -> None:
    path = turned(bundle(tmp_path / "bundle"), tmp_path)
    assert not outcome(path, np.zeros((1, TOKENS, INPUTS), np.float32)).any()


def test_what_is_for_logits_is_left_out(tmp_path: Path) -> None:
    graph = onnx.load(turned(bundle(tmp_path / "bundle"), tmp_path)).graph
    assert [value.name for value in graph.output] == ["present"]
    assert "Neg" not in {node.op_type for node in graph.node}
    assert not {"codes", "scales"} & {tensor.name for tensor in graph.initializer}


def test_a_graph_without_quantized_products_is_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path / "bundle")
    model = onnx.load(path)
    model.graph.node[0].CopyFrom(helper.make_node("Neg", ["x"], ["present"]))
    onnx.save(model, path)
    with pytest.raises(ModelUnsupported, match="no quantized products"):
        turned(path, tmp_path)
