"""A session over an ONNX bundle: ONNX Runtime with every buffer bound once, and a KV cache that is written in place."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.runtime.session import check_room

GRAPH = "model.onnx"
CHUNK = 128  # tokens of a prefill that are computed at once: attention skips what later chunks would mask, and buffers stay small
ERRORS_ONLY = 3  # ONNX Runtime would warn that num_logits_to_keep has a default


class OnnxSession:
    """`context` is cut to the positions that the bundle has rotary tables for.

    Keys and values are appended in place: the same memory is bound as past and as present. It is reserved once, for
    the whole context, and untouched, so that resident bytes follow the tokens. `accuracy_level` 0 turns the rounding
    of activations off, for comparing; `spinning` lets idle threads poll for work between operators, which is faster
    as long as nothing else wants the cores.
    """

    def __init__(
        self,
        folder: Path,
        config: Any,
        context: int,
        threads: int | None = None,
        accuracy_level: int | None = None,
        profile: bool = False,
        spinning: bool = True,
    ) -> None:
        self.session = load(folder / GRAPH, session_options(threads, profile, spinning), accuracy_level)
        self.context = min(context, int(self.session.get_modelmeta().custom_metadata_map.get("context", context)))
        self.vocabulary, self.position = config.vocabulary, 0
        self.binding = self.session.io_binding()
        self.tokens, self.ones, self.keep = np.empty(CHUNK, np.int64), np.ones(self.context, np.int64), np.ones(1, np.int64)
        self.last = np.empty((1, self.vocabulary), np.float32)
        self.cache = reserve((config.layers, 2, 1, config.kv_heads, self.context, config.head_dim))
        for layer, pair in enumerate(self.cache):
            for kind, buffer in zip(("key", "value"), pair, strict=True):
                self._bind(f"past_key_values.{layer}.{kind}", buffer)
                self._bind(f"present.{layer}.{kind}", buffer)
        self._bind("num_logits_to_keep", self.keep)

    @property
    def kv_bytes(self) -> int:
        return self.position * self.cache.nbytes // self.context

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        check_room(self.position, len(tokens), self.context)
        kept = min(keep, len(tokens)) or len(tokens)
        skipped = len(tokens) - kept
        logits = self.last if kept == 1 else np.empty((kept, self.vocabulary), np.float32)
        for start in range(0, len(tokens), CHUNK):
            chunk = tokens[start : start + CHUNK]
            rows = logits[max(start - skipped, 0) : max(start + len(chunk) - skipped, 0)]
            self._run(chunk, rows if len(rows) else self.last)
        return logits

    def rewind(self, position: int) -> None:
        self.position = min(position, self.position)

    def end_profiling(self) -> str:
        """The path of ONNX Runtime's own profile, with `profile` only."""
        return self.session.end_profiling()

    def _run(self, tokens: Sequence[int], logits: np.ndarray) -> None:
        """Append at most CHUNK tokens; the last len(logits) of them get logits."""
        count = len(tokens)
        self.tokens[:count], self.keep[0] = tokens, len(logits)
        self._bind("input_ids", self.tokens[None, :count])
        self._bind("attention_mask", self.ones[None, : self.position + count])
        self._bind("logits", logits[None])
        self.session.run_with_iobinding(self.binding)
        self.position += count

    def _bind(self, name: str, array: np.ndarray) -> None:
        bind = self.binding.bind_output if name.startswith(("present", "logits")) else self.binding.bind_input
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def reserve(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, float32, whose pages become resident one by one as they are first written."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, 4 * prod(shape), **private)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page would be resident as a whole
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(shape)


def session_options(threads: int | None, profile: bool = False, spinning: bool = True) -> Any:
    """The graph is written as it should run, so nothing is left to optimize; activations' shapes change with every step,
    so there are no patterns to remember either."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern = False
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.prepack.enable_parallel", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "deepseek-profile")
    return options


def load(path: Path, options: Any, accuracy_level: int | None = None) -> Any:
    """ONNX Runtime's session over a graph file.

    Raises ModelCorrupt when it cannot be loaded.
    """
    try:
        graph: str | bytes = str(path)
        if accuracy_level is not None:
            graph = with_accuracy_level(path, accuracy_level)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class of their own
        raise ModelCorrupt(
            "{file} cannot be loaded: {reason}", hint="Deploy the model again.", file=path, reason=str(error).split("\n")[0]
        ) from error


def with_accuracy_level(path: Path, level: int) -> bytes:
    """The graph with every product at this accuracy level; its weights stay where they are."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = level
    return model.SerializeToString()
