"""llama.cpp through its C interface (include/llama.h), which the library in the xllamacpp wheel exports.

The wheel's own Python serves texts and gives no logits.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import weakref
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli.errors import MissingExtra, ModelCorrupt

DISTRIBUTION = "xllamacpp"
F32, F16 = 0, 1  # ggml types of a KV cache
ERROR = 4  # a log level
IN_MEMORY = 0  # a load mode: the file may go behind it
BATCH = 512  # tokens that are computed at once
Log = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)

errors: list[str] = []  # what llama.cpp has said since the last model was opened


def listen(level: int, text: bytes, _: Any) -> None:
    if level == ERROR:
        errors.append(text.decode(errors="replace").strip())


LISTENER = Log(listen)  # must outlive every call


class ModelParams(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("devices", "overrides")),
        *((name, c_int32) for name in ("gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu")),
        *((name, c_void_p) for name in ("tensor_split", "progress", "progress_data", "kv_overrides")),
        *((name, c_bool) for name in ("vocab_only", "check_tensors", "extra_buffers", "no_host", "no_alloc", "load_mtp")),
    ]


class ContextParams(ctypes.Structure):
    _fields_ = [
        *((name, c_uint32) for name in ("context", "batch", "micro_batch", "sequences", "rs_sequences")),
        *((name, c_uint32) for name in ("outputs", "outputs_per_sequence")),
        *((name, c_int32) for name in ("threads", "batch_threads", "kind", "rope_scaling", "pooling", "attention")),
        ("flash_attention", c_int32),
        *((name, c_float) for name in ("rope_base", "rope_scale", "yarn_ext", "yarn_attn", "beta_fast", "beta_slow")),
        ("original_context", c_uint32),
        ("defragment", c_float),
        *((name, c_void_p) for name in ("callback", "callback_data")),
        *((name, c_int32) for name in ("keys", "values")),
        ("expert_cache", c_size_t),
        *((name, c_void_p) for name in ("abort", "abort_data")),
        *((name, c_bool) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified")),
        ("samplers", c_void_p),
        ("sampler_count", c_size_t),
        ("other", c_void_p),
    ]


class Batch(ctypes.Structure):
    """Without positions and sequences: they go on where the only sequence ends."""

    _fields_ = [
        ("count", c_int32),
        ("tokens", c_void_p),
        *((name, c_void_p) for name in ("embeddings", "positions", "sequence_counts", "sequences")),
        ("wanted", c_void_p),  # int8 for each token: whether it gets logits
    ]


FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_model_free": (None, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_free": (None, [c_void_p]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
    "llama_log_set": (None, [Log, c_void_p]),
}


class LlamaCpp:
    """A model in llama.cpp, on the CPU, with one sequence. Raises MissingExtra, and ModelCorrupt with llama.cpp's own reason.

    `exact` keeps a float32 cache and plain attention, and reads the file at once, so that it may go.
    """

    def __init__(self, path: Path, context: int, threads: int | None, *, exact: bool = False) -> None:
        self.library = load_library()
        errors.clear()
        params = self.library.llama_model_default_params()
        params.gpu_layers = 0
        if exact:
            params.load_mode = IN_MEMORY
        self.model = self._made(path, self.library.llama_model_load_from_file(str(path).encode(), params))
        weakref.finalize(self, self.library.llama_model_free, self.model)
        params = self.library.llama_context_default_params()
        params.context, params.batch, params.micro_batch = context, BATCH, BATCH
        params.outputs, params.outputs_per_sequence = BATCH, BATCH
        params.threads = params.batch_threads = threads or os.cpu_count() or 1
        if exact:
            params.keys = params.values = F32
            params.flash_attention = 0  # it rounds
        self.context = self._made(path, self.library.llama_init_from_model(self.model, params))
        weakref.finalize(self, self.library.llama_free, self.context)  # finalizers run from the last to the first

    def decode(self, tokens: Sequence[int], logits: np.ndarray) -> None:
        """Append at most BATCH tokens; the last len(logits) of them get logits, float32 [.., vocabulary]."""
        ids, wanted = np.array(tokens, np.int32), np.zeros(len(tokens), np.int8)
        wanted[len(tokens) - len(logits) :] = 1
        batch = Batch(count=len(ids), tokens=ids.ctypes.data, wanted=wanted.ctypes.data)
        if code := self.library.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode gave {code}: {_reason()}")
        if len(logits):
            logits[:] = np.ctypeslib.as_array(self.library.llama_get_logits(self.context), logits.shape)

    def forget(self, position: int) -> None:
        """Leave the sequence only the tokens before `position`."""
        self.library.llama_memory_seq_rm(self.library.llama_get_memory(self.context), 0, position, -1)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids as llama.cpp finds them; `special` adds what its file puts around a text."""
        data = text.encode()
        room = len(data) + 2
        ids = (c_int32 * room)()
        vocabulary = self.library.llama_model_get_vocab(self.model)
        count = self.library.llama_tokenize(vocabulary, data, len(data), ids, room, special, True)
        return ids[:count]

    def _made(self, path: Path, pointer: int | None) -> int:
        if pointer:
            return pointer
        raise ModelCorrupt("{file} cannot be loaded: {reason}", hint="Deploy the model again.", file=path, reason=_reason())


def _reason() -> str:
    return errors[0] if errors else "llama.cpp gives no reason"


@cache
def load_library() -> Any:
    """Its functions, typed.

    Raises MissingExtra where it is not installed, or has another interface than the one written down here.
    """
    try:
        found = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise _missing("{distribution} is not installed.") from None
    files = [found.locate_file(f) for f in found.files or () if f.suffix in (".so", ".pyd")]
    try:
        library = ctypes.CDLL(str(files[0]))
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (AttributeError, IndexError, OSError):
        raise _missing("{distribution} {version} exports no C interface of llama.cpp here.", found.version) from None
    params = library.llama_context_default_params()
    if (params.batch, params.rope_scaling, params.yarn_ext, params.keys, params.values) != (2048, -1, -1.0, F16, F16):
        raise _missing("{distribution} {version} has another C interface than the one we know.", found.version)
    library.llama_log_set(LISTENER, None)
    return library


def _missing(message: str, version: str = "") -> MissingExtra:
    return MissingExtra(
        message,
        hint="Install it: pip install 'deepseek-cli[{extra}]'. A bundle can be written without: deploy --verify weights",
        distribution=DISTRIBUTION,
        version=version,
        extra="gguf",
    )
