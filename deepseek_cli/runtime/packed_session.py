"""A cpu bundle from the machine cache: weights as the kernels want them, mapped instead of packed into memory at each load,
and, for `--fast-prefill`, a second form of them that prompts run through."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli.errors import ModelCorrupt, ResourceError
from deepseek_cli.runtime.machine_cache import CannotMake, MachineCache, processor
from deepseek_cli.runtime.memory_plan import MemoryPlan
from deepseek_cli.runtime.onnx_session import CPU, GRAPH, OnnxSession, load, session_options
from deepseek_cli.runtime.session import check_room

DATA = f"{GRAPH}.data"
DECODE, PREFILL = "decode", "prefill"
LEAST = 16  # tokens of a prompt that are worth another session
PREFILL_CHUNK = 256
PACKED_SHARE = 2.5  # bytes of an entry over those of the bundle: the weights as they are, and packed
INT8_SHARE = 8  # the same of int8, beside what it is made from
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp")  # other processors sum products of bytes in 16 bits, which overflow


def open_packed(
    folder: Path, config: Any, context: int, threads: int | None, cache: MachineCache, fast_prefill: bool = False
) -> OnnxSession | FastPrefillSession:
    """A session over a cpu bundle. Where the cache cannot be written it runs from the bundle itself; with `fast_prefill`, for
    which there is no other place, that raises DiskFull or ResourceError."""
    decode = _decoding(folder, config, context, threads, cache)
    if not fast_prefill:
        return decode
    return FastPrefillSession(decode, _prefilling(folder, config, decode, threads, cache))


class PrefillSession(OnnxSession):
    """Appends tokens to another session's cache, and gives no logits."""

    def append(self, tokens: Sequence[int], position: int) -> None:
        self.position = position
        for start in range(0, len(tokens), self.chunk):
            self._run(tokens[start : start + self.chunk], self.last[:0])


class FastPrefillSession:
    """Tokens whose logits nobody wants go through `prefill`, all others through `decode`: the cache is one."""

    def __init__(self, decode: OnnxSession, prefill: PrefillSession) -> None:
        self.decode, self.prefill, self.context = decode, prefill, decode.context

    @property
    def position(self) -> int:
        return self.decode.position

    @property
    def kv_bytes(self) -> int:
        return self.decode.kv_bytes

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        check_room(self.position, len(tokens), self.context)
        ahead = len(tokens) - (min(keep, len(tokens)) or len(tokens))
        if ahead < LEAST:
            return self.decode.feed(tokens, keep)
        self.prefill.append(tokens[:ahead], self.position)
        self.decode.position = self.prefill.position
        return self.decode.feed(tokens[ahead:], keep)

    def rewind(self, position: int) -> None:
        self.decode.rewind(position)


def _decoding(folder: Path, config: Any, context: int, threads: int | None, cache: MachineCache) -> OnnxSession:
    def make(staging: Path) -> None:
        pack(folder / GRAPH, staging, threads)

    try:
        entry = cache.entry(folder, DECODE, int(PACKED_SHARE * _size(folder)), make)
    except CannotMake:
        return OnnxSession(folder, config, context, threads)
    try:
        return OnnxSession(entry, config, context, threads)
    except ModelCorrupt:
        cache.forget(entry)
        return OnnxSession(folder, config, context, threads)


def _prefilling(folder: Path, config: Any, decode: OnnxSession, threads: int | None, cache: MachineCache) -> PrefillSession:
    from deepseek_cli.ops.onnx_int8 import write_prefill

    def make(staging: Path) -> None:
        raw = staging / "raw"
        raw.mkdir()
        pack(write_prefill(folder / GRAPH, raw), staging, threads)
        for file in raw.iterdir():
            file.unlink()
        raw.rmdir()

    require_dot_products()
    entry = cache.entry(folder, PREFILL, INT8_SHARE * _size(folder), make)
    return PrefillSession(
        entry, config, decode.context, threads, plan=MemoryPlan(chunk=PREFILL_CHUNK), cache=decode.cache
    )


def pack(graph: Path, folder: Path, threads: int | None) -> None:
    """What ONNX Runtime makes of a graph as it loads it, written to `folder`: its weights as they were, and as kernels want them."""
    options = session_options(threads)
    options.optimized_model_filepath = str(folder / GRAPH)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    load(graph, options, providers=[CPU])


def require_dot_products() -> None:
    """Raises ResourceError where int8 products could overflow."""
    flags = processor()[1].split()
    if platform.machine().lower() in ("arm64", "aarch64") or any(flag in flags for flag in DOT_PRODUCTS):
        return
    raise ResourceError(
        "--fast-prefill needs a processor with dot products of bytes (VNNI), which this one is not known to have.",
        hint="Leave it out.",
    )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob(f"{GRAPH}*"))
