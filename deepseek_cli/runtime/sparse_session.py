"""A bundle's session with sparse attention: a prompt attends to all keys, each single token behind it to some pages of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli.ops.pages import PAGE, RECENT, TRUST, Attended, pairs
from deepseek_cli.runtime.onnx_session import OnnxSession

NOTHING = -1e30  # the radius of a page that cannot be chosen: no query expects anything there
SPARE = 0.25  # of the bounds' pages, to come: they grow by copying


class SparseSession(OnnxSession):
    """At most `most` keys for a single token, in whole pages: the first, the newest, and those chosen by their `bounds`
    [layers, kv_heads, pages, mean | TRUST * half-range], of which `known` pages are filled. `attended` counts keys."""

    def __init__(
        self,
        folder: Path,
        config: Any,
        context: int,
        threads: int | None = None,
        accuracy_level: int | None = None,
        *,
        most: int,
    ) -> None:
        from deepseek_cli.ops.onnx_sparse import choose_pages

        super().__init__(folder, config, context, threads, accuracy_level, rewrite=choose_pages)
        self.most, self.queries, self.known, self.attended = most, config.heads * config.layers, 0, Attended()
        self.sparse, self.at, self.unused = np.zeros(1, bool), np.zeros(1, np.int64), np.zeros(most // PAGE * PAGE, np.float32)
        keys = self.cache[:, 0, 0] if self.cache.ndim == 6 else self.cache  # of latents, the rows
        self.keys = keys.reshape(*keys.shape[:2], -1, PAGE, keys.shape[3])  # [layers, kv_heads, pages, PAGE, channels]
        layers, heads, pages, _, channels = self.keys.shape
        self.bounds = np.empty((layers, heads, 0, 2 * channels), np.float32)
        self.first = pages * np.arange(heads, dtype=np.int64)[:, None]  # page of each head, counted over all heads
        self.always = self.first.repeat(RECENT + 2, axis=1)
        self.shared = {
            "sparse": self.sparse,
            "position": self.at,
            "choose": np.array([most // PAGE - self.always.shape[1]], np.int64),
            "offsets": self.first + 1,
            "always": self.always,
            "unused": self.unused,
        }
        known_inputs = {value.name for value in self.session.get_inputs()}
        for name in self.shared.keys() & known_inputs:  # latents are turned before they are attended to: no position
            self._bind(name, self.shared[name])
        self._reserve_bounds(1)

    @property
    def kv_bytes(self) -> int:
        return super().kv_bytes + self.bounds[:, :, : self.known].nbytes

    def rewind(self, position: int) -> None:
        super().rewind(position)
        self.known = min(self.known, max(0, self.position // PAGE - RECENT))
        self._hide_unknown()

    def _run(self, tokens: Sequence[int], logits: np.ndarray) -> None:
        past, new = self.position, len(tokens)
        self.sparse[0] = new == 1 and past >= self.most
        if self.sparse[0]:
            self._place(past)
        self.attended.expect(self.queries, past, new)
        self.attended.pairs += self.queries * pairs(past, new, self.most if new == 1 else past + new)
        super()._run(tokens, logits)

    def _bound_rows(self, total: int) -> int:
        return -(-total // PAGE) * PAGE if self.sparse[0] else total

    def _place(self, position: int) -> None:
        """Say what a token there attends to in any case, and know what it may choose."""
        last, self.at[0] = position // PAGE, position
        self.always[:] = self.first + np.array([0, *range(last - RECENT, last + 1)])
        self.unused[-PAGE:] = np.where(np.arange(PAGE) > position % PAGE, -np.inf, 0)
        if self.known < last - RECENT:
            self._learn(last - RECENT)

    def _learn(self, pages: int) -> None:
        """Bounds of all pages before this one, from the cache."""
        if pages > self.bounds.shape[2]:
            self._reserve_bounds(pages)
        new = slice(self.known, pages)
        for keys, bounds in zip(self.keys, self.bounds, strict=True):
            filled = keys[:, new].astype(np.float32, copy=False)  # [kv_heads, pages, PAGE, channels]
            radius = (filled.max(axis=2) - filled.min(axis=2)) * (TRUST / 2)
            np.concatenate((filled.mean(axis=2), radius), axis=-1, out=bounds[:, new])
        self.known = pages

    def _reserve_bounds(self, pages: int) -> None:
        layers, heads, most, _, channels = self.keys.shape
        old, reserved = self.bounds, min(most, int(pages * (1 + SPARE)) + 1)
        self.bounds = np.empty((layers, heads, reserved, 2 * channels), np.float32)
        self.bounds[:, :, : self.known] = old[:, :, : self.known]
        self._hide_unknown()
        for layer, bounds in enumerate(self.bounds):
            self._bind(f"bounds.{layer}", bounds)

    def _hide_unknown(self) -> None:
        mean, radius = np.split(self.bounds[:, :, self.known :], 2, axis=-1)
        mean[:], radius[:] = 0, NOTHING
