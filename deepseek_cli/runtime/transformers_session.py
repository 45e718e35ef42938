"""A session over a compressed-tensors folder: transformers on the CPU, which stands in for vLLM where there is none."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats import safetensors
from deepseek_cli.runtime.session import check_room, in_chunks, require

CHUNK = 512  # tokens of a prefill that are computed at once


def runtime() -> str:
    """Raises MissingExtra."""
    return ", ".join(require(name, "vllm") for name in ("transformers", "compressed-tensors"))


def open_folder(folder: Path, config: Any, context: int, threads: int | None, exact: bool) -> TransformersSession:
    """What runs a vllm bundle here; `exact` in float32 instead of the bundle's own dtype."""
    runtime()
    if threads:
        torch.set_num_threads(threads)
    with _quiet():
        model = _load(folder, exact)
    return TransformersSession(model, context)


class TransformersSession:
    """`model` is a causal language model of transformers."""

    def __init__(self, model: Any, context: int) -> None:
        self.model, self.context, self.position = model, context, 0
        self.cache = self._new_cache()

    @property
    def kv_bytes(self) -> int:
        kept = (value for layer in self.cache.layers for value in vars(layer).values())
        return sum(value.nbytes for value in kept if isinstance(value, torch.Tensor))

    @torch.inference_mode()
    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        check_room(self.position, len(tokens), self.context)
        kept = []
        for chunk, wanted in in_chunks(tokens, keep, CHUNK):
            ids = torch.tensor([list(chunk)])
            logits = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=max(wanted, 1)).logits
            self.position += len(chunk)
            if wanted:
                kept.append(logits[0].float().numpy())
        return np.concatenate(kept) if len(kept) > 1 else kept[0]

    def rewind(self, position: int) -> None:
        if position <= 0:
            self.cache = self._new_cache()
        elif position < self.position:
            self.cache.crop(position - self.position)
        self.position = min(max(position, 0), self.position)

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)


@torch.inference_mode()
def _load(folder: Path, exact: bool) -> Any:
    """The model, of a class that transformers itself has, unpacked.

    It unpacks experts in the dtype of their scales, whatever dtype is asked for: `exact` hands it wider scales.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except ValueError:
        raise ModelUnsupported(
            "transformers has no model for {folder}.", hint="Deploy with --verify weights, and run it in vLLM.", folder=folder
        ) from None
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if exact:
        held: dict[str, Any] = {name: ref.read() for name, ref in safetensors.read_folder(folder).items()}
        wide = {name: value.float() if name.endswith(".weight_scale") else value for name, value in held.items()}
        model = kind.from_pretrained(None, config=config, state_dict=wide, dtype=torch.float32).eval()
    else:
        model = kind.from_pretrained(folder, dtype="auto").eval()
    model(torch.zeros(1, 1, dtype=torch.int64))  # the first pass unpacks what a module holds
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and remarks of these libraries."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    with contextlib.redirect_stderr(io.StringIO()):
        yield
    logging.set_verbosity(before)
