"""What llama.cpp computes of DeepSeek's families, and the keys that tell it the sizes of latents and experts."""

from __future__ import annotations

from typing import Any

from deepseek_cli.architectures.deepseek_config import DeepSeekConfig
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.handle import ModelHandle

SCORINGS = {"softmax": 1, "sigmoid": 2}  # expert_gating_func


def deepseek_keys(config: DeepSeekConfig) -> dict[str, Any]:
    """Beside those of any model, or instead of them; latent attention is attention over one head, the latent."""
    gate, latent = config.gate, config.latent
    assert gate  # see `missing`
    experts = {
        "leading_dense_block_count": min(config.sparse),
        "expert_feed_forward_length": config.expert_intermediate,
        "expert_count": gate.experts,
        "expert_used_count": gate.top_k,
        "expert_shared_count": config.shared_intermediate // config.expert_intermediate,
        "expert_weights_scale": gate.scale,
        "expert_weights_norm": gate.renormalize,
        "expert_gating_func": SCORINGS[gate.scoring],
    }
    if gate.groups > gate.top_groups:
        experts |= {"expert_group_count": gate.groups, "expert_group_used_count": gate.top_groups}
    if latent is None:
        return experts
    return experts | {
        "attention.q_lora_rank": config.q_rank,  # zero where there is none: its absence is an error for most numbers of layers
        "attention.kv_lora_rank": latent.rank,
        "attention.key_length": latent.cached,
        "attention.value_length": latent.rank,
        "attention.key_length_mla": latent.nope_dim + latent.rope_dim,
        "attention.value_length_mla": latent.value_dim,
        "rope.dimension_count": latent.rope_dim,
    }


def refuse_variants(handle: ModelHandle) -> None:
    """Raises ModelUnsupported for a config of DeepSeek's that llama.cpp would compute in another way."""
    if not isinstance(handle.config, DeepSeekConfig):
        return
    if reason := missing(handle.config):
        raise ModelUnsupported(
            "{model}: llama.cpp's models of DeepSeek's families have {reason}.",
            hint="Deploy it with --target cpu.",
            model=handle.name,
            reason=reason,
        )


def missing(config: DeepSeekConfig) -> str:
    """What llama.cpp has no place for; "" where it has one for everything."""
    gate = config.gate
    if gate is None or not config.sparse or not config.shared_intermediate:
        return "experts, some of which are shared"
    if config.sparse != frozenset(range(min(config.sparse), config.layers + config.drafts)):
        return "experts in every layer behind the first ones"
    if config.attention_bias or config.mlp_bias:
        return "no biases"
    if gate.groups > gate.top_groups and not gate.corrected:
        return "groups of experts that are scored by their best two, not by one (group_limited_greedy)"
    if config.latent is None:
        if config.family != "deepseek":
            return "latent attention"
        if gate.renormalize or gate.scoring != "softmax" or gate.corrected:
            return "gates that only scale what their softmax says"
    return ""
