"""Products in int8, each token rounded by itself, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from deepseek_cli.ops.onnx_graph import DTYPES, Graph
from deepseek_cli.ops.onnx_ops import OnnxOps
from deepseek_cli.ops.token_rounding import MOST_NARROW, PRODUCT
from deepseek_cli.quantize.rtn import quantize
from deepseek_cli.runtime import onnx_session
from deepseek_cli.runtime.onnx_session import load, session_options
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.tensors import QuantizedTensor, TensorRef
from tests.ops.test_onnx_ops import ref

INPUTS, OUTPUTS, TOKENS = 48, 40, 7
X = np.random.default_rng(0).standard_normal((1, TOKENS, INPUTS)).astype(np.float32)


def weight(scheme: str = "int8-channel") -> QuantizedTensor:
    return quantize(torch.randn((OUTPUTS, INPUTS), generator=torch.Generator().manual_seed(0)), parse_scheme(scheme))


def written(folder: Path, scheme: str = "int8-channel", bias: torch.Tensor | None = None) -> Path:
    tensors: dict[str, TensorRef] = {"w.weight": ref("w.weight", weight(scheme))}
    if bias is not None:
        tensors["w.bias"] = ref("w.bias", bias)
    with Graph(folder / "model.onnx") as graph:
        x = graph.input("x", DTYPES[torch.float32], [1, "tokens", INPUTS])
        ops = OnnxOps(graph, tensors, 8, rounds_tokens=True)
        graph.inputs[:] = [x]
        graph.output(ops.linear(x, "w"), "y", DTYPES[torch.float32], [1, "tokens", OUTPUTS])
    return folder / "model.onnx"


def outcome(path: Path, x: np.ndarray, accuracy_level: int | None = None) -> np.ndarray:
    session = load(path, session_options(1), accuracy_level)
    return np.asarray(session.run(["y"], {"x": x})[0])


def error(path: Path, x: np.ndarray = X, bias: Any = 0.0, **options: Any) -> float:
    """The largest of any output, over the largest output."""
    exact = x @ weight().dequantize().numpy().T + bias
    return float(np.abs(outcome(path, x, **options) - exact).max() / np.abs(exact).max())


def kinds(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}


def test_rounding_changes_a_product_little(tmp_path: Path) -> None:
    assert 0 < error(written(tmp_path)) < 0.01


def test_a_bias_is_added_to_the_whole(tmp_path: Path) -> None:
    bias = torch.linspace(-50, 50, OUTPUTS)
    assert error(written(tmp_path, bias=bias), bias=bias.numpy()) < 0.01


def test_queries_and_keys_are_rounded_by_token_and_values_in_blocks(tmp_path: Path) -> None:
    names = [f"self_attn.{part}_proj" for part in "qkv"]
    tensors = {f"{name}.weight": ref(f"{name}.weight", weight()) for name in names}
    with Graph(tmp_path / "model.onnx") as graph:
        x = graph.input("x", DTYPES[torch.float32], [1, "tokens", INPUTS])
        ops = OnnxOps(graph, tensors, 8, rounds_tokens=True)
        graph.inputs[:] = [x]
        for name, y in zip(names, ops.linears(x, names), strict=True):
            graph.output(ops._value(y), f"{name}.y", DTYPES[torch.float32], [1, "tokens", OUTPUTS])
    nodes = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node
    assert [node.op_type for node in nodes if node.op_type in (PRODUCT, "MatMulNBits")] == [PRODUCT, PRODUCT, "MatMulNBits"]
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) == 1  # of what both read, once
    session, exact = load(tmp_path / "model.onnx", session_options(1), None), X @ weight().dequantize().numpy().T
    for found in session.run(None, {"x": X}):
        assert np.abs(found - exact).max() < 0.01 * np.abs(exact).max()


def test_without_rounding_the_product_is_exact(tmp_path: Path) -> None:
    assert error(written(tmp_path), accuracy_level=0) < 1e-6


def test_a_token_gives_the_same_bits_whatever_is_beside_it(tmp_path: Path) -> None:
    path, x = written(tmp_path), X.copy()
    x[0, 1:] *= 10_000
    alone = outcome(path, X[:, :1])
    assert np.array_equal(outcome(path, X)[:, :1], alone)
    assert np.array_equal(outcome(path, x)[:, :1], alone)


@pytest.mark.parametrize("accuracy_level", [0, None])
def test_a_token_of_zeros_gives_zeros(tmp_path: Path, accuracy_level: int | None) -> None:
    x = X.copy()
    x[0, 3] = 0
    found = outcome(written(tmp_path), x, accuracy_level)
    assert not found[0, 3].any()
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("scheme", "op"), [("int8-g32", "MatMulNBits"), ("int4-g64", "MatMulNBits"), ("int8", PRODUCT)])
def test_only_eight_bits_with_a_scale_a_row_are_multiplied_so(tmp_path: Path, scheme: str, op: str) -> None:
    assert kinds(written(tmp_path, scheme)) & {"MatMulNBits", PRODUCT} == {op}


def test_a_processor_that_would_overflow_gets_codes_of_seven_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 * (2 * MOST_NARROW + 1) * 128 < 1 << 15
    path = written(tmp_path)
    eight = error(path)
    monkeypatch.setattr(onnx_session, "multiplies_bytes", lambda: False)
    assert eight < error(path) < 0.02
