"""A cpu bundle that drafts with the model's own layer for it (multi-token prediction), a second graph beside the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli.ops.drafting import DRAFT, HIDDEN, STATES
from deepseek_cli.runtime.memory_plan import MemoryPlan
from deepseek_cli.runtime.onnx_session import OnnxSession

LOOKBACK = 16  # of a text that it has not seen the layer is shown the end: it guesses as well, and all would take a while
PARTS = 2  # of a model, where each layer is one, and the head: what a guess goes through
MOST_SHARE = 0.2  # of a step, that a guess may take: with a row more to check it, more would not pay
KEPT = 64  # states that it may yet be shown: those of wrong guesses are taken back


def pays(config: Any) -> bool:
    """Whether there are layers enough that one of them takes little of a step: otherwise even keeping states costs more."""
    return share_of(config) <= MOST_SHARE


def share_of(config: Any) -> float:
    return float(PARTS / (config.layers + 1))


class DraftingSession(OnnxSession):
    """Keeps the last hidden states that the layer has not seen yet, those of the newest tokens."""

    drafts = True

    def __init__(
        self, folder: Path, config: Any, context: int, threads: int | None = None, plan: MemoryPlan | None = None
    ) -> None:
        super().__init__(folder, config, context, threads, plan=plan)
        self.layer, self.share = DraftLayer(folder, config, self.context), share_of(config)
        self.fed = list[int]()
        self.unseen = np.empty((0, config.hidden), np.float32)

    def draft(self, token: int) -> int:
        """The likeliest token behind `token`, which itself comes behind all that was fed."""
        self._pass_over(LOOKBACK)
        following = [*self.fed[len(self.fed) - len(self.unseen) + 1 :], token]
        states, self.unseen = self.unseen, self.unseen[:0]
        return self.layer.see(following, states)

    def rewind(self, position: int) -> None:
        """Where the layer has gone further it keeps its newest row, whose next token may change: it only guesses."""
        unseen = len(self.unseen) - (self.position - min(position, self.position))
        super().rewind(position)
        self.unseen, self.fed = self.unseen[: max(unseen, 0)], self.fed[: self.position]
        self.layer.rewind(max(self.layer.position + min(unseen, 0), 0))

    def _run(self, tokens: Sequence[int], logits: np.ndarray) -> None:
        states = np.empty((len(tokens), self.unseen.shape[1]), np.float32)
        self._bind(HIDDEN, states[None])
        super()._run(tokens, logits)
        self.fed += tokens
        self.unseen = np.concatenate((self.unseen, states))
        self._pass_over(KEPT)

    def _pass_over(self, most: int) -> None:
        """Of a longer text that the layer has not seen only the end counts, where it begins anew."""
        if len(self.unseen) > most:
            self.unseen = self.unseen[-most:]
            self.layer.rewind(0)


class DraftLayer(OnnxSession):
    """Its rows count from wherever it began to see the text: rotary embeddings only know distances.

    One thread is enough for a layer, and a second pool of threads would take the cores from the model's.
    """

    graph = DRAFT

    def __init__(self, folder: Path, config: Any, context: int) -> None:
        self.number = config.layers
        super().__init__(folder, dataclasses.replace(config, layers=1), context, threads=1)

    def see(self, following: Sequence[int], states: np.ndarray) -> int:
        """Append hidden states [new, hidden], each beside the token behind it; the likeliest token behind the last of these."""
        self._bind(STATES, states[None])
        self._run(following, self.last)
        return int(self.last[0].argmax())

    def _bind_cache(self, layer: int, kind: str, buffer: np.ndarray) -> None:
        super()._bind_cache(self.number + layer, kind, buffer)
