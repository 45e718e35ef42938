"""A GGUF file as a model: its config and tensors under the names that Hugging Face folders use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats.gguf import Gguf, GgufTensor, corrupt, read_gguf, weight
from deepseek_cli.tensors import TensorRef, Weight, dense, take_rows

FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NAME = re.compile(r"blk\.(0|[1-9]\d{0,3})\.(\w+)\.(weight|bias)")
QKV, MLP = {"attn_q", "attn_k", "attn_v"}, {"ffn_gate", "ffn_up", "ffn_down"}
FREQUENCIES = "rope_freqs.weight"  # belongs to the config


def open_gguf(path: Path) -> tuple[dict[str, Any], dict[str, TensorRef]]:
    """A config as config.json would hold it, and the tensors by their Hugging Face names.

    Raises ModelUnsupported for an architecture outside FAMILIES, and for tensors and settings that its Hugging Face
    counterpart does not know: leaving them out would be another model. Else what `read_gguf` raises.
    """
    file = read_gguf(path)
    family = str(file.metadata.get("general.architecture"))
    if family not in FAMILIES:
        raise ModelUnsupported(
            "{file}: the architecture {name} is not supported.",
            hint="Supported are {known}.",
            file=path,
            name=family,
            known=", ".join(FAMILIES),
        )
    _refuse_variants(file, family)
    config = _config(file, family)
    tensors = {}
    for name, tensor in file.tensors.items():
        if name != FREQUENCIES:
            hf_name = _name(path, name, config)
            tensors[hf_name] = _reference(file, tensor, hf_name, _heads(hf_name, config) if family == "llama" else 0)
    return config, tensors


def _refuse_variants(file: Gguf, family: str) -> None:
    get = file.metadata.get
    if get("split.count", 1) not in (0, 1):
        raise ModelUnsupported(
            "{file} is one part of a split model.", hint="Merge its parts with llama-gguf-split --merge.", file=file.path
        )
    if get(f"{family}.expert_count", 0) != 0:
        raise _unsupported(
            "{file}: a mixture of experts in the architecture {family} is not supported.", file.path, family=family
        )
    lengths = [get(f"{family}.attention.{kind}_length") for kind in ("key", "value")]
    if all(isinstance(length, int) for length in lengths) and lengths[0] != lengths[1]:
        raise _unsupported("{file}: keys and values of different lengths are not supported.", file.path)
    biased = {match[2] for name in file.tensors if (match := NAME.fullmatch(name)) and match[3] == "bias"}
    attention = QKV if family == "qwen2" else QKV | {"attn_output"}
    wholes = [whole for whole in (attention, MLP if family == "llama" else set()) if biased >= whole]
    if odd := biased.difference(*wholes):
        parts = ", ".join(sorted(odd))
        raise _unsupported(
            "{file}: biases on {parts} do not fit the architecture {family}.", file.path, parts=parts, family=family
        )


def _name(path: Path, name: str, config: Mapping[str, Any]) -> str:
    """`blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`."""
    if name in OUTER:
        return OUTER[name]
    match, layers = NAME.fullmatch(name), config.get("num_hidden_layers")
    known = INNER.get(match[2]) if match else None
    normed = known in ("self_attn.q_norm", "self_attn.k_norm") and config["model_type"] != "qwen3"
    if not match or known is None or normed or (isinstance(layers, int) and int(match[1]) >= layers > 0):
        family = config["model_type"]
        raise _unsupported("{file}: tensor {tensor} has no place in the architecture {family}.", path, tensor=name, family=family)
    return f"model.layers.{match[1]}.{known}.{match[3]}"


def _unsupported(message: str, path: Path, **facts: object) -> ModelUnsupported:
    hint = "Read are dense models of the architectures {known}, as llama.cpp converts them."
    return ModelUnsupported(message, hint=hint, file=path, known=", ".join(FAMILIES), **facts)


def _heads(name: str, config: Mapping[str, Any]) -> int:
    """How many heads' rows the file keeps interleaved; 0 for tensors that are not rotated."""
    part = name.rsplit(".", 2)[-2]
    heads = {"q_proj": config.get("num_attention_heads"), "k_proj": config.get("num_key_value_heads")}.get(part)
    return heads if isinstance(heads, int) and heads > 0 else 0  # anything else is refused with the rest of the config


def _reference(file: Gguf, tensor: GgufTensor, name: str, heads: int) -> TensorRef:
    if heads and tensor.shape[0] % (2 * heads):
        raise corrupt(
            "{file}: tensor {tensor} has {rows} rows for {heads} heads.",
            file.path,
            tensor=tensor.name,
            rows=tensor.shape[0],
            heads=heads,
        )

    def read() -> Weight:
        found = weight(file, tensor)
        return take_rows(found, half_split_rows(tensor.shape[0], heads)) if heads else found

    return TensorRef(
        name, tensor.shape, tensor.stored, tensor.size, read, lambda: file.mapped.release(tensor.offset, tensor.size)
    )


def half_split_rows(rows: int, heads: int) -> torch.Tensor:
    """llama files keep rotary pairs side by side; the order of rows that puts a head's first halves before its second ones."""
    return torch.arange(rows).view(heads, -1, 2).transpose(1, 2).flatten()


def _config(file: Gguf, family: str) -> dict[str, Any]:
    def get(key: str, default: Any = None) -> Any:
        return file.metadata.get(f"{family}.{key}", default)

    heads, hidden = get("attention.head_count"), get("embedding_length")
    embedding = file.tensors.get("token_embd.weight")
    q_bias = "blk.0.attn_q.bias" in file.tensors
    derived = hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads else None
    head_dim = get("attention.key_length", derived)
    if get("rope.dimension_count", head_dim) != head_dim:
        raise ModelUnsupported("{file}: partial rotary embeddings are not supported.", hint="Use another model.", file=file.path)
    config = {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "vocab_size": embedding.shape[0] if embedding else get("vocab_size"),
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": _shortest(get("attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(get("rope.freq_base", 10000.0)),
        "rope_scaling": _scaling(file, family),
        "attention_bias": q_bias and family != "qwen2",
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors or None,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "hidden_act": "silu",
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _ends(file.metadata),
        "torch_dtype": "bfloat16",
    }
    return {key: value for key, value in config.items() if value is not None}


def _ends(metadata: Mapping[str, Any]) -> Any:
    """The ends of a text, a turn and a message: one id, or a list of them where they differ."""
    found = [metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot", "eom")]
    ends = [end for i, end in enumerate(found) if end is not None and end not in found[:i]]
    return ends if len(ends) > 1 else next(iter(ends), None)


def _shortest(value: Any) -> Any:
    """A float32 as the short decimal it was meant to be: 1e-05, not 9.99999974e-06."""
    return float(f"{value:.7g}") if isinstance(value, float) and math.isfinite(value) else value


def _scaling(file: Gguf, family: str) -> dict[str, Any] | None:
    if FREQUENCIES in file.tensors:
        factors = dense(weight(file, file.tensors[FREQUENCIES])).float().tolist()
        attention = file.metadata.get(f"{family}.rope.scaling.attn_factor")
        return {"rope_type": "frequency_factors", "factors": factors, "attention_factor": attention}
    keys = {
        "rope_type": "type",
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "attention_factor": "attn_factor",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    found = {name: _shortest(file.metadata.get(f"{family}.rope.scaling.{key}")) for name, key in keys.items()}
    found["factor"] = file.metadata.get(f"{family}.rope.scale_linear") if found["factor"] is None else found["factor"]
    if found["rope_type"] is None and found["factor"] is not None:
        found["rope_type"] = "linear"  # llama.cpp's default
    if found["rope_type"] in (None, "none") or (found["rope_type"] == "linear" and found["factor"] in (None, 0.0, 1.0)):
        return None
    factor, attention = found["factor"], found["attention_factor"]
    if isinstance(factor, float) and isinstance(attention, float) and 1 <= factor < 1e6:
        # llama.cpp multiplies YaRN's own factor by it, Hugging Face puts it in that one's place
        found["attention_factor"] = None if attention == 1 else attention * (1 + 0.1 * math.log(factor))
    return {name: value for name, value in found.items() if value is not None}
