"""A session over an ONNX bundle: ONNX Runtime with every buffer bound once, and a KV cache that is written in place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from deepseek_cli.errors import DeepseekError, ModelCorrupt
from deepseek_cli.memory import untouched
from deepseek_cli.ops.drafting import HIDDEN
from deepseek_cli.ops.pages import PAGE
from deepseek_cli.ops.rounded_cache import BEFORE_SCALES, BY_CHANNEL
from deepseek_cli.ops.token_rounding import STEP, exact, narrow
from deepseek_cli.runtime.machine_cache import multiplies_bytes
from deepseek_cli.runtime.memory_plan import MemoryPlan, release_pages
from deepseek_cli.runtime.session import check_room

GRAPH = "model.onnx"
CPU = "CPUExecutionProvider"
CHUNK = 128  # tokens of a prefill that are computed at once: attention skips what later chunks would mask, and buffers stay small
LATENT_CHUNK = 256  # of latents, which are expanded once a chunk
LATENT = ("latent",)
KEEP = "num_logits_to_keep"
OUTPUTS = ("present", "logits", HIDDEN)
CACHE_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
ERRORS_ONLY = 3  # ONNX Runtime would warn that num_logits_to_keep has a default
Rewrite = Callable[[Any], None]  # of an onnx.ModelProto, in place


def open_folder(folder: Path, config: Any, context: int, threads: int | None, exact: bool) -> OnnxSession:
    """What runs a cpu bundle; `exact` without rounding activations."""
    return OnnxSession(folder, config, context, threads, accuracy_level=0 if exact else None)


class OnnxSession:
    """`context` is cut to the positions that the bundle has rotary tables for.

    Keys and values are appended in place: the same memory is bound as past and as present. It is reserved once, for
    the whole context, and untouched, so that resident bytes follow the tokens. `accuracy_level` 0 turns the rounding
    of activations off, for comparing; `spinning` lets idle threads poll for work between operators, which is faster
    as long as nothing else wants the cores. `rewrite` changes the graph as it is loaded, `plan` what it costs in memory.
    `cache` is another session's of the same bundle, to be shared.
    """

    graph = GRAPH

    def __init__(
        self,
        folder: Path,
        config: Any,
        context: int,
        threads: int | None = None,
        accuracy_level: int | None = None,
        profile: bool = False,
        spinning: bool = True,
        rewrite: Rewrite | None = None,
        plan: MemoryPlan | None = None,
        cache: np.ndarray | None = None,
    ) -> None:
        plan = plan or MemoryPlan()
        self.session = self._load(
            folder / self.graph, session_options(threads, profile, spinning, plan.prepack), accuracy_level, rewrite
        )
        self.released_bytes = release_pages(mapped_files(folder)) if plan.release else 0
        self.context = min(context, int(self.session.get_modelmeta().custom_metadata_map.get("context", context)))
        self.vocabulary, self.position = config.vocabulary, 0
        self.binding = self.session.io_binding()
        self.chunk = plan.chunk or (LATENT_CHUNK if getattr(config, "latent", None) else CHUNK)
        self.tokens, self.ones, self.keep = np.empty(self.chunk, np.int64), np.ones(self.context, np.int64), np.ones(1, np.int64)
        self.last = np.empty((1, self.vocabulary), np.float32)
        self.rows: list[np.ndarray] = []  # of latents, whose binding grows with them
        self.cache = self._reserve_cache(config, cache)
        self.keeps = any(value.name == KEEP for value in self.session.get_overridable_initializers())
        if self.keeps:
            self._bind(KEEP, self.keep)

    @property
    def kv_bytes(self) -> int:
        return self.position * self.cache.nbytes // self.cache.shape[-2]

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        check_room(self.position, len(tokens), self.context)
        kept = min(keep, len(tokens)) or len(tokens)
        skipped = len(tokens) - kept
        logits = self.last if kept == 1 else np.empty((kept, self.vocabulary), np.float32)
        for start in range(0, len(tokens), self.chunk):
            chunk = tokens[start : start + self.chunk]
            rows = logits[max(start - skipped, 0) : max(start + len(chunk) - skipped, 0)]
            self._run(chunk, rows if len(rows) else self.last)
        return logits

    def rewind(self, position: int) -> None:
        self.position = min(position, self.position)

    def end_profiling(self) -> str:
        """The path of ONNX Runtime's own profile, with `profile` only."""
        return self.session.end_profiling()

    def _load(self, path: Path, options: Any, accuracy_level: int | None, rewrite: Rewrite | None) -> Any:
        return load(path, options, accuracy_level, rewrite)

    def _reserve_cache(self, config: Any, shared: Any = None) -> Any:
        """Keys and values [layers, 2, 1, heads, rows, channels], or latents [layers, 1, rows, channels]."""
        latent, kinds = getattr(config, "latent", None), cache_kinds(self.session)
        rows = -(-self.context // PAGE) * PAGE
        dtype = next(CACHE_DTYPES[v.type] for v in self.session.get_inputs() if v.name.startswith("past_key_values"))
        if not latent:
            shape: tuple[int, ...] = (config.layers, 2, 1, config.kv_heads, rows, config.head_dim)
            cache = reserve(shape, dtype) if shared is None else shared
            for layer, pair in enumerate(cache):
                for kind, buffer in zip(kinds, pair, strict=True):
                    self._bind_cache(layer, kind, buffer)
            return cache
        cache = reserve((config.layers, 1, rows, latent.cached), dtype) if shared is None else shared
        if kinds == LATENT:
            self.rows = list(cache)
            return cache
        for layer, buffer in enumerate(cache):
            for kind in kinds:  # the same rows are keys and values
                self._bind_cache(layer, kind, buffer[:, None])
        return cache

    def _run(self, tokens: Sequence[int], logits: np.ndarray) -> None:
        """Append at most `chunk` tokens; the last len(logits) of them get logits."""
        count = len(tokens)
        self.tokens[:count] = tokens
        self._bind("input_ids", self.tokens[None, :count])
        self._bind("attention_mask", self.ones[None, : self.position + count])
        if len(logits):
            self.keep[0] = len(logits)
            self._bind("logits", logits[None])
        for layer, rows in enumerate(self.rows):
            self._bind_cache(layer, "latent", rows[:, : self._bound_rows(self.position + count)])
        self.session.run_with_iobinding(self.binding)
        self.position += count

    def _bound_rows(self, total: int) -> int:
        """How many rows of latents the graph is shown."""
        return total

    def _bind_cache(self, layer: int, kind: str, buffer: np.ndarray) -> None:
        """As what is there and as what will be: the graph appends in place."""
        self._bind(f"past_key_values.{layer}.{kind}", buffer)
        self._bind(f"present.{layer}.{kind}", buffer)

    def _bind(self, name: str, array: np.ndarray) -> None:
        bind = self.binding.bind_output if name.startswith(OUTPUTS) else self.binding.bind_input
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def mapped_files(folder: Path) -> frozenset[str]:
    """The bundle's files as the system names them where they are mapped."""
    return frozenset(str(file.resolve()) for file in folder.iterdir() if file.is_file())


def cache_kinds(session: Any) -> tuple[str, ...]:
    """What a layer's cache consists of."""
    return LATENT if any(value.name.endswith(LATENT) for value in session.get_inputs()) else ("key", "value")


def reserve(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Zeros that take memory as they are written."""
    return np.frombuffer(untouched(np.dtype(dtype).itemsize * prod(shape)), dtype).reshape(shape)


def session_options(threads: int | None, profile: bool = False, spinning: bool = True, prepack: bool = True) -> Any:
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
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "deepseek-profile")
    return options


def load(
    path: Path,
    options: Any,
    accuracy_level: int | None = None,
    rewrite: Rewrite | None = None,
    providers: Sequence[str] = (CPU,),
) -> Any:
    """ONNX Runtime's session over a graph file; the first of `providers` that has an operator computes it.

    Raises ModelCorrupt when it cannot be loaded, and what `rewrite` does.
    """
    try:
        graph: str | bytes = str(path)
        if accuracy_level != 0 and not multiplies_bytes() and STEP.encode() in path.read_bytes():
            rewrite = _after(narrow, rewrite)
        if accuracy_level is not None or rewrite:
            graph = rewritten(path, accuracy_level, rewrite, options)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        return ort.InferenceSession(graph, options, providers=list(providers))
    except DeepseekError:
        raise
    except Exception as error:  # its exceptions share no base class of their own
        raise ModelCorrupt(
            "{file} cannot be loaded: {reason}", hint="Deploy the model again.", file=path, reason=str(error).split("\n")[0]
        ) from error


def _after(first: Rewrite, second: Rewrite | None) -> Rewrite:
    def rewrite(model: Any) -> None:
        first(model)
        if second:
            second(model)

    return rewrite


def rewritten(path: Path, accuracy_level: int | None, rewrite: Rewrite | None, options: Any) -> bytes:
    """The graph as it should run this time; its weights stay where they are."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    if accuracy_level is not None:
        set_accuracy_level(model, accuracy_level, options)
    if rewrite:
        rewrite(model)
    return model.SerializeToString()


def set_accuracy_level(model: Any, level: int, options: Any) -> None:
    """Every product at this accuracy level. At 0 nothing else is rounded either: a cache becomes float32, and experts of
    8 bits, whose packed form rounds at any level, are not packed."""
    import onnx

    rounds = False
    for node in model.graph.node:
        settings = {attribute.name: attribute for attribute in node.attribute}
        rounds |= node.op_type == "QMoE" and settings["expert_weight_bits"].i == 8
        if "accuracy_level" in settings:
            settings["accuracy_level"].i = level
        if level == 0 and node.op_type == "Cast" and settings["to"].i == onnx.TensorProto.FLOAT16:
            settings["to"].i = onnx.TensorProto.FLOAT
        if level == 0 and settings.keys() >= BY_CHANNEL.keys():
            del node.input[BEFORE_SCALES:]
            for name in BY_CHANNEL:
                node.attribute.remove(settings[name])
    if level == 0:
        exact(model.graph)
        for value in (*model.graph.input, *model.graph.output):
            if value.type.tensor_type.elem_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8):
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        if rounds:
            options.add_session_config_entry("session.disable_prepacking", "1")
