"""A session over a model folder: the PyTorch interpreter, weights resident, one KV cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from deepseek_cli.errors import ModelUnsupported, ResourceError
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops import SparseSpec, hidden_states
from deepseek_cli.ops.pages import Attended
from deepseek_cli.ops.torch_ops import KVCache, TorchOps
from deepseek_cli.ops.torch_sparse import PagedCache, SparseOps
from deepseek_cli.runtime.memory_plan import release_heap
from deepseek_cli.runtime.session import check_room, in_chunks
from deepseek_cli.tensors import TensorRef, dense, in_pieces

CHUNK = 512  # tokens of a prefill that are computed at once


class TorchSession:
    """`dtype` is what weights are held and products computed in; logits are float32.

    With `drafts` the model's own layer for it can guess a token further. It attends to what it saw itself: the model's last
    hidden states, each beside the token that came next. `hidden` keeps those it has not seen yet. With `sparse` the model
    attends to a part of its keys, and `attended` counts them; the layer that drafts attends to all of its own.
    """

    share = 0.1  # of a step that a guess might take; the first one tells

    def __init__(
        self,
        handle: ModelHandle,
        context: int,
        threads: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "auto",
        drafts: bool = False,
        sparse: SparseSpec | None = None,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.architecture, self.config, self.context = handle.architecture, handle.config, context
        self.device = choose_device(device)
        refs = {**handle.weights, **(_require_draft(handle) if drafts else {})}
        self.weights = {name: self._load(ref, dtype) for name, ref in refs.items()}
        release_heap()
        self.sparse, self.attended = sparse, Attended() if sparse else None
        self.cache = (PagedCache if sparse else KVCache)(context, dtype, self.device)
        self.draft_cache = KVCache(context, dtype, self.device)
        self.drafts, self.fed, self.hidden = drafts, list[int](), list[torch.Tensor]()

    def _load(self, ref: TensorRef, dtype: torch.dtype) -> torch.Tensor:
        """The weight in memory of its own, so that the file's pages can go."""
        weight = torch.empty(ref.shape, dtype=dtype, device=self.device)
        start = 0
        for piece in in_pieces(ref.read()):
            weight[start : start + piece.shape[0]] = dense(piece)
            start += piece.shape[0]
        ref.release()
        return weight

    def _ops(self, keep: int) -> TorchOps:
        if self.sparse is None:
            return TorchOps(self.weights, self.cache, keep)
        return SparseOps(self.weights, self.cache, keep, sparse=self.sparse, attended=self.attended)

    @property
    def position(self) -> int:
        return self.cache.length

    @property
    def kv_bytes(self) -> int:
        return self.cache.bytes_per_token * self.cache.length

    @torch.inference_mode()
    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        check_room(self.position, len(tokens), self.context)
        kept = []
        for chunk, wanted in in_chunks(tokens, keep, CHUNK):
            ops = self._ops(keep=max(wanted, 1))
            normed = hidden_states(ops, self.architecture, self.config, torch.tensor([list(chunk)], device=self.device))
            self.cache.length += len(chunk)
            if self.drafts:
                self.hidden.append(normed)
            if wanted:
                kept.append(self.architecture.head(ops, self.config, normed)[0].float().cpu().numpy())
        self.fed += tokens
        return np.concatenate(kept) if len(kept) > 1 else kept[0]

    @torch.inference_mode()
    def draft(self, token: int) -> int:
        """The likeliest token behind `token`, which itself comes behind all that was fed. Only for a session that drafts."""
        seen = self.draft_cache.length
        following = torch.tensor([[*self.fed[seen + 1 :], token]], device=self.device)
        ops = TorchOps(self.weights, self.draft_cache, keep=1)
        assert self.architecture.draft  # _require_draft has looked
        normed = self.architecture.draft(ops, self.config, following, torch.cat(self.hidden, dim=1))
        self.draft_cache.length, self.hidden = self.position, []
        return int(self.architecture.head(ops, self.config, normed)[0, -1].argmax())

    def rewind(self, position: int) -> None:
        """Where the draft has gone further it keeps its newest row, whose next token may change: it only guesses."""
        self.cache.length = min(position, self.cache.length)
        self.draft_cache.length = min(self.position, self.draft_cache.length)
        self.fed = self.fed[: self.position]
        unseen = self.position - self.draft_cache.length
        self.hidden = [torch.cat(self.hidden, dim=1)[:, :unseen]] if self.hidden and unseen else []


def _require_draft(handle: ModelHandle) -> Mapping[str, TensorRef]:
    """Raises ModelUnsupported for a model that has no layer to draft with."""
    if not handle.draft_weights:
        raise ModelUnsupported(
            "{model} has no layer for multi-token prediction, so it cannot draft.",
            hint="Run it without --draft.",
            model=handle.name,
        )
    return handle.draft_weights


def choose_device(device: str) -> str:
    """The PyTorch device for `auto`, or the one asked for.

    Raises ResourceError when it is not there.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present[device]:
        raise ResourceError("This machine has no {device} device that PyTorch can use.", hint="Use --device cpu.", device=device)
    return device
