"""Weights and KV cache from the files' headers and the config: nothing is run and no weights are read."""

from __future__ import annotations

from typing import Any

from deepseek_cli.handle import Bundle, ModelHandle
from deepseek_cli.ops.cost import count
from deepseek_cli.profile import weights
from deepseek_cli.runtime.session import DEFAULT_CONTEXT

KV_BYTES = {"fp32": 4, "fp16": 2}  # of a value; PyTorch keeps the cache in float32


def estimate(model: ModelHandle | Bundle, context: int | None = None) -> dict[str, Any]:
    """Bytes of the weights as stored, by form, and of the KV cache for `context` tokens."""
    stored = weights.of_bundle(model) if isinstance(model, Bundle) else weights.of_handle(model)
    forms = weights.by_form(stored)
    tokens = context or min(model.config.context, DEFAULT_CONTEXT)
    kv = str(model.manifest.steps[-1]["resolved"].get("kv", "fp32")) if isinstance(model, Bundle) else "fp32"
    per_token = count(model.architecture, model.config).kv_values_per_token * KV_BYTES[kv]
    held = sum(form["bytes"] for form in forms)
    return {
        "name": model.name,
        "weights": forms,
        "weights_bytes": held,
        "kv": {"bytes_per_token": per_token, "context": tokens, "full_bytes": per_token * tokens},
        "total_bytes": held + per_token * tokens,
    }
