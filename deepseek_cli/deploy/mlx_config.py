"""config.json as mlx-lm reads it: each field said, since its defaults are others, and none that could name code.

What mlx-lm's models compute otherwise than ours is refused: it would ignore the field, not complain of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.handle import ModelHandle

LATENT_EPS = 1e-6  # of the norms of latents, written into mlx-lm's models
DROPPED_LAYER = 61  # mlx-lm takes it for DeepSeek-V3's drafting layer
SCALINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale_all_dim"),
}
KNOWN = {"deepseek": ("default", "linear"), "deepseek_v2": ("default", "yarn")}  # others know all of them


def mlx_config(handle: ModelHandle) -> dict[str, Any]:
    """The config of a dense model. Raises ModelUnsupported for what mlx-lm does not compute."""
    config = handle.config
    family = family_of(handle)
    if other := next(_otherwise(handle, family), None):
        raise ModelUnsupported(
            "mlx-lm cannot compute {name}: {reason}.", hint="Deploy it with --target cpu.", name=handle.name, reason=other
        )
    theta, scaling = _rope(handle, family)
    own = _deepseek(config) if family.startswith("deepseek") else {"head_dim": config.head_dim}
    biased = {"llama": ("qkv_bias", "mlp_bias"), "deepseek": ("attention_bias", "")}.get(family.split("_")[0], ())
    biases = {key: getattr(config, field) for key, field in zip(("attention_bias", "mlp_bias"), biased, strict=False) if field}
    ends = {"bos_token_id": config.bos, "eos_token_id": list(config.eos) or None}
    return {
        "model_type": family,
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads if getattr(config, "latent", None) else config.kv_heads,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "rope_theta": theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": config.tied and not family.startswith("deepseek"),
        **biases,
        **own,
        **{key: value for key, value in ends.items() if value is not None},
    }


def family_of(handle: ModelHandle) -> str:
    """mlx-lm's name for what the model computes: without latent attention, DeepSeek's newer families are the first."""
    family = handle.architecture.name
    return "deepseek" if family == "deepseek_v2" and not handle.config.latent else family


def _deepseek(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"n_routed_experts": None, "n_shared_experts": None}
    if latent := config.latent:
        found |= {
            "q_lora_rank": config.q_rank or None,
            "kv_lora_rank": latent.rank,
            "qk_nope_head_dim": latent.nope_dim,
            "qk_rope_head_dim": latent.rope_dim,
            "v_head_dim": latent.value_dim,
        }
    if gate := config.gate:
        grouped = gate.top_groups < gate.groups
        found |= {
            "moe_intermediate_size": config.expert_intermediate,
            "n_routed_experts": gate.experts,
            "n_shared_experts": config.shared_intermediate // config.expert_intermediate or None,
            "num_experts_per_tok": gate.top_k,
            "n_group": gate.groups if grouped else 1,
            "topk_group": gate.top_groups if grouped else 1,
            "topk_method": "noaux_tc" if gate.corrected else "group_limited_greedy" if grouped else "greedy",
            "scoring_func": gate.scoring,
            "norm_topk_prob": gate.renormalize,
            "routed_scaling_factor": gate.scale,
            "first_k_dense_replace": min(config.sparse, default=config.layers),
            "moe_layer_freq": _every(config),
        }
    return found


def _every(config: Any) -> int:
    """The step from one layer with experts to the next."""
    first, *others = sorted(config.sparse) or [0]
    return others[0] - first if others else 1


def _rope(handle: ModelHandle, family: str) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling, old style. mlx-lm knows YaRN's factor on cos and sin only as a ratio of `mscale`s."""
    raw, config = handle.raw_config, handle.config
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(given.get("rope_theta", raw.get("rope_theta", 10000.0)))
    kind = _kind(given)
    if kind == "default":  # deepseek_v2 wants a YaRN in any case
        plain = {"type": "yarn", "factor": 1.0, "original_max_position_embeddings": config.context}
        return theta, plain if family == "deepseek_v2" else None
    defaults = {"original_max_position_embeddings": config.context} if kind == "yarn" else {}
    scaling = {"type": kind, "rope_type": kind, **defaults, **{key: given[key] for key in SCALINGS[kind] if given.get(key)}}
    if kind == "yarn":
        scaling.setdefault("factor", config.context / scaling["original_max_position_embeddings"])
        slope = 0.1 * math.log(max(scaling["factor"], 1.0))
        whole = config.rope.factor * (slope * scaling.get("mscale_all_dim", 0) + 1)
        scaling["mscale"] = (whole - 1) / slope if slope else 1.0
    return theta, scaling | {"factor": float(scaling["factor"])}


def _kind(scaling: Mapping[str, Any]) -> str:
    return str(scaling.get("rope_type", scaling.get("type", "default")))


def _otherwise(handle: ModelHandle, family: str) -> Iterator[str]:
    """What mlx-lm's model of this family leaves out, or computes in another way."""
    config, raw = handle.config, handle.raw_config
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if _kind(scaling) not in KNOWN.get(family, SCALINGS) or scaling.get("truncate") is False:
        yield f"it has no {_kind(scaling)} scaling of rotary embeddings like this one"
    if family == "qwen2" and config.head_dim * config.heads != config.hidden:
        yield "its heads must add up to the hidden size"
    if family == "qwen3" and config.qkv_bias:
        yield "its attention has no biases"
    if family.startswith("deepseek"):
        yield from _deepseek_otherwise(config, family)


def _deepseek_otherwise(config: Any, family: str) -> Iterator[str]:
    if family == "deepseek_v32":
        yield "its sparse attention is not ours yet"
    if config.mlp_bias:
        yield "its MLPs have no biases"
    if config.latent and config.norm_eps != LATENT_EPS:
        yield f"its norms of latents always add {LATENT_EPS}"
    if family == "deepseek_v3" and config.layers > DROPPED_LAYER:
        yield f"it drops layer {DROPPED_LAYER}"
    if gate := config.gate:
        first, step = min(config.sparse, default=config.layers), _every(config)
        if config.sparse != {i for i in range(config.layers + config.drafts) if i >= first and i % step == 0}:
            yield "its layers with experts are evenly spaced"
        newer = family == "deepseek_v3"
        if (gate.scoring, gate.corrected) != (("sigmoid", True) if newer else ("softmax", False)):
            yield f"its gates are not {gate.scoring} ones like these"
        if gate.renormalize and (gate.top_k == 1 if newer else True):
            yield "its gates leave the weights of experts as they are"
        if family == "deepseek" and (gate.scale != 1 or gate.top_groups < gate.groups):
            yield "its gates neither scale nor group"
