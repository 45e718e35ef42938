"""What this machine can do at most: bytes read and operations of matrix products a second, and what each figure reaches of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from deepseek_cli.bench.arms import started
from deepseek_cli.reporter import Reporter

BUFFER = 256 << 20  # bytes: several times most last caches
ROWS, INNER, OUTER = 512, 2048, 2048  # of the products, all operands in cache
SECONDS = 0.35  # for each kind of product
ONNX = (("fp32", "MatMul", "float32", "float32", "float32"), ("int8", "MatMulInteger", "uint8", "int8", "int32"))


def measured(threads: int, reporter: Reporter) -> dict[str, Any] | None:
    """Of a process of its own, on so many threads; None where that fails."""
    with started("this machine", {"module": __name__, "threads": threads}) as arm:
        if arm.error:
            reporter.warn("What this machine can do was not measured: {reason}", reason=str(arm.error))
        return arm.ready or None


def main(settings: dict[str, Any]) -> None:
    """The worker: measure, answer, end."""
    from deepseek_cli.bench.worker import speaking
    from deepseek_cli.profile.devices import read_bandwidth

    threads = settings["threads"]
    with speaking() as say:
        bandwidth = read_bandwidth((threads,), BUFFER)
        say("ready", threads=threads, bytes_per_second=bandwidth, by="memchr", matrix=peaks(threads))


def peaks(threads: int) -> dict[str, dict[str, Any]]:
    """Of each kind of product the fastest runtime's operations a second, and that runtime."""
    found: dict[str, dict[str, Any]] = {}
    for kind, runtime, product in (*_torch(threads), *_onnx(threads)):
        rate = _rate(product)
        if rate > found.get(kind, {"operations_per_second": 0})["operations_per_second"]:
            found[kind] = {"operations_per_second": rate, "by": runtime}
    return found


def limits(needs: Mapping[str, Any], matrix: str, roof: Mapping[str, Any], medians: Mapping[str, float]) -> dict[str, Any]:
    """Of each rate the most that this machine allows, in tokens a second, what binds, and the share that is reached."""
    found = {}
    for name, need in needs.items():
        peak = roof["matrix"].get(matrix)
        seconds = {"bandwidth": need["bytes"] / roof["bytes_per_second"]} if roof["bytes_per_second"] else {}
        seconds |= {matrix: need["operations"] / peak["operations_per_second"]} if peak else {}
        if seconds and name in medians:
            binds = max(seconds, key=lambda limit: seconds[limit])
            limit = need["tokens"] / seconds[binds]
            found[name] = {"limit": limit, "binds": binds, "share": medians[name] / limit, **need}
    return found


Product = tuple[str, str, Callable[[], object]]


def _torch(threads: int) -> Iterator[Product]:
    """What PyTorch can multiply here; int8 is private there, and may be missing."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(ROWS, INNER), torch.randn(INNER, OUTER)
    runtime = f"PyTorch {torch.__version__}"
    yield "fp32", runtime, lambda: a @ b
    half = a.bfloat16(), b.bfloat16()
    yield "bf16", runtime, lambda: half[0] @ half[1]
    whole = (a * 40).to(torch.int8), (b * 40).to(torch.int8)
    if hasattr(torch, "_int_mm"):
        yield "int8", runtime, lambda: torch._int_mm(*whole)


def _onnx(threads: int) -> Iterator[Product]:
    """The same in ONNX Runtime, with weights it may pack."""
    import numpy as np
    import onnxruntime as ort

    from deepseek_cli.runtime.onnx_session import session_options

    draw = np.random.default_rng(0)
    runtime = f"ONNX Runtime {ort.__version__}"
    for kind, operator, of_rows, of_weights, of_result in ONNX:
        rows = draw.integers(0, 9, (ROWS, INNER)).astype(of_rows)
        graph = _graph(operator, rows, draw.integers(-9, 9, (INNER, OUTER)).astype(of_weights), np.dtype(of_result))
        session = ort.InferenceSession(graph, session_options(threads), providers=["CPUExecutionProvider"])
        yield kind, runtime, partial(session.run, None, {"x": rows})


def _graph(operator: str, rows: Any, weights: Any, result: Any) -> bytes:
    """A model that is one product."""
    from onnx import helper, numpy_helper

    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(rows.dtype), [ROWS, INNER])
    y = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(result), [ROWS, OUTER])
    node = helper.make_node(operator, ["x", "weights"], ["y"])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weights, "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def _rate(product: Callable[[], object]) -> float:
    """Operations a second, the best of what fits into SECONDS; 0 where this processor cannot."""
    try:
        product()
    except RuntimeError:
        return 0.0
    best, end = float("inf"), time.perf_counter() + SECONDS
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return 2 * ROWS * INNER * OUTER / best
