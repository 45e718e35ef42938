"""A session over a GGUF bundle, in llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli.formats.gguf import read_gguf
from deepseek_cli.formats.gguf_writer import widened, write_gguf
from deepseek_cli.runtime.llamacpp import BATCH, LlamaCpp
from deepseek_cli.runtime.session import check_room
from deepseek_cli.store import passing

MODEL = "model.gguf"


def open_folder(folder: Path, config: Any, context: int, threads: int | None, exact: bool) -> GgufSession:
    """What runs a gguf bundle.

    llama.cpp rounds activations wherever weights are not float32, and has no switch for it. With `exact` it therefore gets
    a passing copy of the file, the same weights as float32, and a float32 cache: that proves names, layout, rotation and
    attention, and the tokens of the file as it is prove that file.
    """
    if not exact:
        return GgufSession(LlamaCpp(folder / MODEL, context, threads), config, context, cache_bytes=2)
    source = read_gguf(folder / MODEL)
    with passing(folder.resolve()) as place:
        copy = place / MODEL
        write_gguf(copy, source.metadata, widened(source))
        return GgufSession(LlamaCpp(copy, context, threads, exact=True), config, context, cache_bytes=4)


class GgufSession:
    """`cache_bytes` is the size of one value in the KV cache."""

    def __init__(self, model: LlamaCpp, config: Any, context: int, cache_bytes: int) -> None:
        self.model, self.context, self.position = model, context, 0
        self.vocabulary = config.vocabulary
        kept = 1 if getattr(config, "latent", None) else 2  # a latent is key and value
        self.token_bytes = kept * config.layers * config.kv_heads * config.head_dim * cache_bytes
        self.last = np.empty((1, self.vocabulary), np.float32)

    @property
    def kv_bytes(self) -> int:
        return self.position * self.token_bytes

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        check_room(self.position, len(tokens), self.context)
        kept = min(keep, len(tokens)) or len(tokens)
        skipped = len(tokens) - kept
        logits = self.last if kept == 1 else np.empty((kept, self.vocabulary), np.float32)
        for start in range(0, len(tokens), BATCH):
            chunk = tokens[start : start + BATCH]
            self.model.decode(chunk, logits[max(start - skipped, 0) : max(start + len(chunk) - skipped, 0)])
            self.position += len(chunk)
        return logits

    def rewind(self, position: int) -> None:
        self.position = min(position, self.position)
        self.model.forget(self.position)
