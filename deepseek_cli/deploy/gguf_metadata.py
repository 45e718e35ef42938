"""What a GGUF file says about a model beside its tensors: its shape, tokenizer and chat template (gguf.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from deepseek_cli.architectures.deepseek_config import DeepSeekConfig
from deepseek_cli.deploy.gguf_deepseek import deepseek_keys
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.evaluate import TEXT
from deepseek_cli.handle import ModelHandle
from deepseek_cli.runtime.gguf_tokenizer import CONTROL, SPLITS, USER_DEFINED, build, split
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer

NORMAL, UNUSED = 1, 5  # token types
PROBE = (  # composed as NFC has it: Qwen's tokenizers compose, llama.cpp does not, and both are given what is composed
    "It's 3.14159 or 2,000\tit'll BE\r\n\r\n  x_y  ==  ø Ünïcôdé… 你好，世界！ 日本語のテキスト 한국어 नमस्ते ٣٤٥ ½ 🙂🙂 \n\n\n"
    "I'VE  don't\u3000全角１２３ é <tag/> C++20 “quotes” ```py\ndef f(x):\n\treturn x**2\n```   end  "
)


def metadata(handle: ModelHandle, family: str, context: int, rotary: Mapping[str, Any]) -> dict[str, Any]:
    """All keys of a file of llama.cpp's architecture `family` but its types of tensors.

    Raises ModelUnsupported for a tokenizer that llama.cpp would not follow.
    """
    config = handle.config
    shape = {
        "context_length": context,
        "embedding_length": config.hidden,
        "block_count": config.layers,
        "feed_forward_length": config.intermediate,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        **(deepseek_keys(config) if isinstance(config, DeepSeekConfig) else {}),
        **rotary,
        "vocab_size": config.vocabulary,
    }
    return {
        "general.architecture": family,
        "general.type": "model",
        "general.name": handle.name,
        **{f"{family}.{key}": value for key, value in shape.items()},
        **dict(tokenizer_metadata(open_tokenizer(handle.root), config.vocabulary, handle.name)),
    }


def tokenizer_metadata(tokenizer: Tokenizer, vocabulary: int, name: str) -> Iterator[tuple[str, Any]]:
    """The keys of `tokenizer.` for an embedding of `vocabulary` rows.

    Raises ModelUnsupported for what is not byte-level BPE, or splits texts in a way that has no name in llama.cpp.
    """
    fast = tokenizer.fast
    model = json.loads(fast.to_str())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or ()]
    pieces = {i: piece for piece, i in fast.get_vocab(with_added_tokens=True).items()}
    if model.get("type", "BPE") != "BPE" or not merges or max(pieces) >= vocabulary:
        raise _refused(name, "is not byte-level BPE with merges, or has more tokens than the embedding has rows")
    tokens = [pieces.get(i, f"[PAD{i}]") for i in range(vocabulary)]
    types = [NORMAL if i in pieces else UNUSED for i in range(vocabulary)]
    for i, token in fast.get_added_tokens_decoder().items():
        types[i] = CONTROL if token.special else USER_DEFINED
    pre = _splitting(fast, name)
    if build(tokens, merges, pre, types).encode(PROBE).ids != fast.encode(PROBE, add_special_tokens=False).ids:
        raise _refused(name, "merges in another way than llama.cpp")
    yield "tokenizer.ggml.model", "gpt2"
    yield "tokenizer.ggml.pre", pre
    yield "tokenizer.ggml.tokens", tokens
    yield "tokenizer.ggml.token_type", types
    yield "tokenizer.ggml.merges", merges
    yield from _specials(tokenizer)
    if tokenizer.template:
        yield "tokenizer.chat_template", tokenizer.template


def _specials(tokenizer: Tokenizer) -> Iterator[tuple[str, Any]]:
    """Beginning and ends: of a text, and where there are more, of a turn and of a message."""
    bos, eos = (tokenizer.fast.token_to_id(text) if text else None for text in (tokenizer.bos, tokenizer.eos_text))
    ends = sorted(tokenizer.eos, key=lambda end: (end != eos, end)) or [end for end in (eos,) if end is not None]
    around = tokenizer.encode("a", special=True)
    if bos is not None:
        yield "tokenizer.ggml.bos_token_id", bos
    for key, end in zip(("eos", "eot", "eom"), ends, strict=False):
        yield f"tokenizer.ggml.{key}_token_id", end
    yield "tokenizer.ggml.add_bos_token", bos is not None and around[0] == bos
    yield "tokenizer.ggml.add_eos_token", bool(ends) and around[-1] == ends[0]


def _splitting(fast: FastTokenizer, name: str) -> str:
    """The name of what splits two texts as this tokenizer does."""
    texts = (PROBE, TEXT.read_text(encoding="utf-8"))
    if fast.pre_tokenizer is None or (fast.normalizer and any(fast.normalizer.normalize_str(t) != t for t in texts)):
        raise _refused(name, "changes texts before it splits them")
    pieces = [[piece for piece, _ in fast.pre_tokenizer.pre_tokenize_str(text)] for text in texts]
    for pre in SPLITS:
        if pre != "default" and [[piece for piece, _ in split(pre).pre_tokenize_str(text)] for text in texts] == pieces:
            return pre
    raise _refused(name, "splits texts in a way that has no name in llama.cpp")


def _refused(model: str, reason: str) -> ModelUnsupported:
    return ModelUnsupported(
        "The tokenizer of {model} cannot be written to GGUF: it {reason}.",
        hint="Deploy it with --target cpu.",
        model=model,
        reason=reason,
    )
