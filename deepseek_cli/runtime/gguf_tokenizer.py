"""The tokenizer inside a GGUF file: byte-level BPE, rebuilt for the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as FastTokenizer

from deepseek_cli.errors import ModelCorrupt, ModelUnsupported
from deepseek_cli.formats.gguf import read_gguf
from deepseek_cli.runtime.tokenizer import Tokenizer

CONTROL, USER_DEFINED = 3, 4  # token types, after gguf.md

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# To the character what DeepSeek's tokenizer.json holds, line ends and all: ONNX Runtime GenAI knows patterns by their text.
V3_WORDS = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
EAST_ASIAN = r"[一-龥ࠀ-一가-퟿]+"

# How a text is split before merging, by `tokenizer.ggml.pre`: patterns applied one after another.
SPLITS: dict[str, tuple[str, ...]] = {
    "default": (GPT_2,),
    "gpt-2": (GPT_2,),
    "smollm": (r"\p{N}", GPT_2),
    "llama-bpe": (WORDS % r"\p{N}{1,3}",),
    "qwen2": (WORDS % r"\p{N}",),
    "deepseek-r1-qwen": (WORDS % r"\p{N}",),
    "deepseek-llm": (
        r"[\r\n]",
        r"\s?[\p{Lu}\p{Ll}\p{Lt}]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        EAST_ASIAN,
        r"\p{N}+",
    ),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, r"\p{N}"),
    "deepseek-v3": (r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", V3_WORDS),
}


def read_tokenizer(path: Path) -> Tokenizer:
    """The file's tokenizer and chat template.

    Raises ModelUnsupported for a kind other than byte-level BPE or an unknown splitting, ModelCorrupt for a damaged one.
    """
    metadata = {k.removeprefix("tokenizer."): v for k, v in read_gguf(path).metadata.items() if k.startswith("tokenizer.")}
    kind, pre = metadata.get("ggml.model"), str(metadata.get("ggml.pre", "default"))
    if kind != "gpt2" or pre not in SPLITS:
        raise ModelUnsupported(
            "{file} has a tokenizer of kind {kind} with splitting {pre}.",
            hint="Byte-level BPE with one of {known} is read; use the model's safetensors version.",
            file=path,
            kind=kind,
            pre=pre,
            known=", ".join(SPLITS),
        )
    tokens, types = _texts(path, metadata, "ggml.tokens"), metadata.get("ggml.token_type")
    fast = _build(path, tokens, _texts(path, metadata, "ggml.merges"), pre, types if isinstance(types, list) else [])
    bos, eos = (_token(tokens, metadata.get(f"ggml.{name}_token_id")) for name in ("bos", "eos"))
    ends = [metadata.get(f"ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    template = metadata.get("chat_template")
    adds_bos = bos is not None and metadata.get("ggml.add_bos_token", pre == "llama-bpe") == 1
    if bos is not None and adds_bos:  # so that a saved tokenizer.json does it too
        fast.post_processor = processors.TemplateProcessing(single=[bos, "$A"], special_tokens=[(bos, tokens.index(bos))])
    return Tokenizer(
        fast,
        bos,
        eos,
        frozenset(e for e in ends if isinstance(e, int)),
        template if isinstance(template, str) else "",
        adds_bos,
    )


def _build(path: Path, tokens: list[str], merges: list[str], pre: str, types: list[int]) -> FastTokenizer:
    if len(set(tokens)) != len(tokens) or not all(" " in merge for merge in merges):
        raise ModelCorrupt("{file}: its tokens repeat, or a merge is not a pair.", hint="Pull the model again.", file=path)
    try:
        return build(tokens, merges, pre, types)
    except Exception as error:  # the library raises bare exceptions
        raise ModelCorrupt(
            "{file} is not a tokenizer: {reason}.", hint="Pull the model again.", file=path, reason=error
        ) from None


def build(tokens: list[str], merges: list[str], pre: str, types: list[int]) -> FastTokenizer:
    """Byte-level BPE as these keys of a file describe it. What the library cannot build raises its bare exceptions."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    fast = FastTokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre == "llama-bpe"))
    fast.pre_tokenizer = split(pre)
    fast.decoder = decoders.ByteLevel()
    kinds = list(zip(tokens, types, strict=False))
    fast.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in kinds if kind == CONTROL])
    fast.add_tokens([AddedToken(t, normalized=False) for t, kind in kinds if kind == USER_DEFINED])
    return fast


def split(pre: str) -> Any:
    """What splits a text before merging, and spells its bytes."""
    steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS[pre]]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _texts(path: Path, metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise ModelCorrupt("{file}: tokenizer.{key} is not a list of strings.", hint="Pull the model again.", file=path, key=key)
    return value


def _token(tokens: list[str], index: Any) -> str | None:
    return tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else None
