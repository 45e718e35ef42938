"""A cpu bundle from the machine cache: weights as the kernels want them, mapped instead of packed into memory at each load,
and, for `--fast-prefill`, a second form of them that prompts run through."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli.errors import DeepseekError, ModelCorrupt, ResourceError
from deepseek_cli.runtime.machine_cache import MachineCache, multiplies_bytes
from deepseek_cli.runtime.memory_plan import MemoryPlan
from deepseek_cli.runtime.onnx_session import OnnxSession
from deepseek_cli.runtime.packing import BATCH, DECODE, PREFILL, PrefillSession, packed
from deepseek_cli.runtime.session import check_room

LEAST = 16  # tokens of a prompt that are worth another session
PREFILL_CHUNK = 256


def open_packed(
    folder: Path, config: Any, context: int, threads: int | None, cache: MachineCache, fast_prefill: bool = False
) -> OnnxSession | FastPrefillSession:
    """A session over a cpu bundle. Where the cache cannot be written it runs from the bundle itself; with `fast_prefill`, for
    which there is no other place, that raises DiskFull or ResourceError."""
    decode = _decoding(folder, config, context, threads, cache)
    if not fast_prefill:
        return decode
    require_dot_products("--fast-prefill")
    entry = packed(folder, PREFILL, cache)
    assert entry
    plan = MemoryPlan(chunk=PREFILL_CHUNK)
    return FastPrefillSession(decode, PrefillSession(entry, config, decode.context, threads, plan=plan, cache=decode.cache))


def packed_for_batches(folder: Path, cache: MachineCache) -> Path:
    """The folder of a cpu bundle's form for many tokens at once. Raises what open_packed does with `fast_prefill`."""
    require_dot_products("batch_int8")
    entry = packed(folder, BATCH, cache)
    assert entry
    return entry


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
    try:
        entry = packed(folder, DECODE, cache, at_once=False)
    except (DeepseekError, OSError):
        entry = None
    if entry:
        try:
            return OnnxSession(entry, config, context, threads)
        except ModelCorrupt:
            cache.forget(entry)
    return OnnxSession(folder, config, context, threads)


def require_dot_products(option: str) -> None:
    """Raises ResourceError where int8 products could overflow."""
    if multiplies_bytes():
        return
    raise ResourceError(
        "{option} needs a processor that multiplies bytes (VNNI), and this one is not known to.",
        hint="Leave it out.",
        option=option,
    )
