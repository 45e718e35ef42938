"""A session over an ONNX bundle for GPUs: in float16 on a GPU or, where there is none, on the CPU; in float32 to compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from deepseek_cli.ops.pages import PAGE
from deepseek_cli.runtime.onnx_session import CACHE_DTYPES, CPU, OnnxSession, Rewrite, load

CUDA = "CUDAExecutionProvider"  # takes the operators of all these bundles
DEVICES = {CPU: "cpu", CUDA: "cuda"}


def open_folder(folder: Path, config: Any, context: int, threads: int | None, exact: bool) -> HalfSession:
    """What verifies a cuda or tensorrt bundle: the CPU provider. `exact` in float32, with the very same weights."""
    return HalfSession(folder, config, context, threads, exact=exact)


def open_fastest(folder: Path, config: Any, context: int, threads: int | None, exact: bool) -> HalfSession:
    """What runs one: the CUDA provider, where this ONNX Runtime has it."""
    provider = CUDA if CUDA in ort.get_available_providers() and not exact else CPU
    return HalfSession(folder, config, context, threads, exact=exact, provider=provider)


class HalfSession(OnnxSession):
    """The cache lies where `provider` computes."""

    def __init__(
        self, folder: Path, config: Any, context: int, threads: int | None, *, exact: bool = False, provider: str = CPU
    ) -> None:
        self.provider = provider
        super().__init__(folder, config, context, threads, rewrite=widen if exact else None)
        self.every = np.empty((0 if self.keeps else self.chunk, self.vocabulary), np.float32)

    @property
    def kv_bytes(self) -> int:
        return self.position * self.token_bytes

    def _load(self, path: Path, options: Any, accuracy_level: int | None, rewrite: Rewrite | None) -> Any:
        """Optimized: on a CPU, casts and dequantization are best done once."""
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        return load(path, options, accuracy_level, rewrite, tuple(dict.fromkeys((self.provider, CPU))))

    def _reserve_cache(self, config: Any, shared: Any = None) -> list[ort.OrtValue]:
        """Keys and values [1, heads, rows, channels], both as what is there and as what will be: the graph appends in place."""
        past = [value for value in self.session.get_inputs() if value.name.startswith("past_key_values")]
        dtype = CACHE_DTYPES[past[0].type]
        shape = [1, config.kv_heads, -(-self.context // PAGE) * PAGE, config.head_dim]
        self.token_bytes = len(past) * config.kv_heads * config.head_dim * np.dtype(dtype).itemsize
        cache = [ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, DEVICES[self.provider], 0) for _ in past]
        for value, buffer in zip(past, cache, strict=True):
            self.binding.bind_ortvalue_input(value.name, buffer)
            self.binding.bind_ortvalue_output(value.name.replace("past_key_values", "present"), buffer)
        return cache

    def _run(self, tokens: Sequence[int], logits: np.ndarray) -> None:
        """Graphs for TensorRT give the logits of every token."""
        rows = logits if self.keeps else self.every[: len(tokens)]
        super()._run(tokens, rows)
        if not self.keeps:
            logits[:] = rows[len(rows) - len(logits) :]


def widen(model: ModelProto) -> None:
    """The graph in float32, in place; its initializers stay what they are in the data file, and are cast."""
    graph = model.graph
    half = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for node in graph.node:
        node.input[:] = [f"{name}.wide" if name in half else name for name in node.input]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = [helper.make_node("Cast", [name], [f"{name}.wide"], to=TensorProto.FLOAT) for name in sorted(half)]
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
