"""A session over a metal bundle: mlx-lm's own model and cache, on the GPU of a Mac or on any CPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli.errors import MissingExtra, ModelCorrupt
from deepseek_cli.runtime.session import check_room

CHUNK = 512  # tokens of a prefill that are computed at once


def open_folder(folder: Path, config: Any, context: int, threads: int | None, exact: bool) -> MlxSession:
    """What runs a metal bundle; `exact` in float32. MLX chooses its own threads."""
    return MlxSession(folder, context, exact)


class MlxSession:
    """On a CPU it always computes in float32: 16-bit arithmetic is emulated there, many times as slow and no truer to a GPU.

    No code of the folder runs: mlx-lm imports a model file of its own only where it is told to trust it.
    """

    def __init__(self, folder: Path, context: int, exact: bool = False) -> None:
        self.mx, load_model, make_cache, self.trim = _import()
        on_cpu = self.mx.default_device() != self.mx.gpu
        if on_cpu:
            self.mx.disable_compile()  # which would want a C++ compiler, and its time
        try:
            self.model, _ = load_model(folder, trust_remote_code=False)
        except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
            raise ModelCorrupt(
                "{file} cannot be loaded: {reason}", hint="Deploy the model again.", file=folder, reason=str(error).split("\n")[0]
            ) from error
        if exact or on_cpu:
            self.model.set_dtype(self.mx.float32)
        self.cache, self.context = make_cache(self.model), context

    @property
    def position(self) -> int:
        return int(self.cache[0].offset)

    @property
    def kv_bytes(self) -> int:
        held = [array for layer in self.cache for array in (layer.keys, layer.values) if array is not None]
        return sum(array.nbytes * self.position // array.shape[2] for array in held)

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        check_room(self.position, len(tokens), self.context)
        kept = min(keep, len(tokens)) or len(tokens)
        first = len(tokens) - kept
        starts = [*range(0, first, CHUNK), *range(first, len(tokens), CHUNK), len(tokens)]
        found = [self._run(tokens[a:b], a >= first) for a, b in pairwise(starts)]
        return np.concatenate([logits for logits in found if logits is not None])

    def _run(self, tokens: Sequence[int], wanted: bool) -> np.ndarray | None:
        """Append tokens; MLX is lazy, so that logits which are not wanted are never computed."""
        logits = self.model(self.mx.array([list(tokens)]), cache=self.cache)[0]
        if wanted:
            return np.array(logits.astype(self.mx.float32))
        self.mx.eval([(layer.keys, layer.values) for layer in self.cache])
        return None

    def rewind(self, position: int) -> None:
        self.trim(self.cache, max(self.position - position, 0))


def _import() -> tuple[Any, Any, Any, Any]:
    """mlx.core, and of mlx-lm what loads a model, makes its cache and shortens it. Raises MissingExtra."""
    try:
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
        from mlx_lm.utils import load_model
    except ImportError:
        raise MissingExtra(
            "{distribution} is not installed.",
            hint="Install it: pip install 'deepseek-cli[{extra}]'",
            distribution="mlx-lm",
            extra="metal",
        ) from None
    return mx, load_model, make_prompt_cache, trim_prompt_cache
