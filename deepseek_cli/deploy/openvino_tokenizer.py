"""A tokenizer as two OpenVINO models, text to tokens and back, which openvino_genai runs in the place of any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.processors import TemplateProcessing

from deepseek_cli.deploy.gguf_metadata import PROBE
from deepseek_cli.deploy.target import require
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.runtime.gguf_tokenizer import GPT_2
from deepseek_cli.runtime.openvino_session import INSTALL, compiled
from deepseek_cli.runtime.tokenizer import Tokenizer

TOKENIZER, DETOKENIZER = "openvino_tokenizer.xml", "openvino_detokenizer.xml"
SAMPLE = f"{PROBE}\n\n17  March"


def isolated(pattern: str) -> dict[str, Any]:
    """A step of tokenizer.json that splits text into what matches and what lies between."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


DIGITS = (isolated(r"\p{N}"), {"type": "Digits", "individual_digits": True})  # two ways to say that each stands alone
# GPT-2's pattern behind such a step, as one: the converted one would see the digits that stand behind the end of its piece.
BEHIND_DIGITS = GPT_2.replace(r" ?\p{N}+", r"\p{N}").replace(r"\s+(?!\S)", r"\s+(?=\p{N})|\s+(?!\S)")
NEEDED = ("openvino-tokenizers", "transformers")  # whose converter takes only an object of transformers'


def write_tokenizer(tokenizer: Tokenizer, folder: Path, name: str) -> None:
    """Convert the tokenizer of the model `name`. Raises ModelUnsupported where that fails, or splits text otherwise.

    No hub is asked, and no class that a config names is loaded.
    """
    for distribution in NEEDED:
        require(distribution, "openvino", INSTALL)
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import PreTrainedTokenizerFast

    wrapped: Any = PreTrainedTokenizerFast(
        tokenizer_object=_convertible(tokenizer),
        bos_token=tokenizer.bos,
        eos_token=tokenizer.eos_text,
        chat_template=tokenizer.template or None,
        clean_up_tokenization_spaces=False,
    )
    try:
        models = convert_tokenizer(wrapped, with_detokenizer=True)
    except Exception as error:  # the converter raises whatever it stumbles over
        raise _refused(name, f"the conversion fails ({str(error).strip().splitlines()[-1]})") from error
    for file, model in zip((TOKENIZER, DETOKENIZER), models, strict=True):
        openvino.save_model(model, folder / file, compress_to_fp16=False)
    if reason := difference(tokenizer, folder):
        raise _refused(name, reason)


def difference(tokenizer: Tokenizer, folder: Path) -> str:
    """What the models in `folder` do otherwise than the tokenizer; "" where a probing text goes there and back alike."""
    import openvino_tokenizers  # noqa: F401  (whose operators the models are made of)

    try:
        encode, decode = (compiled(folder / file) for file in (TOKENIZER, DETOKENIZER))
    except RuntimeError:
        return "it does not load there"
    if encode([SAMPLE])["input_ids"][0].tolist() != tokenizer.encode(SAMPLE, special=True):
        return "it splits text otherwise there"
    ids = tokenizer.encode(SAMPLE)
    decoded = decode(np.array([ids]))["string_output"][0]
    return "" if decoded == tokenizer.decode(ids) else "it joins tokens otherwise there"


def _convertible(tokenizer: Tokenizer) -> FastTokenizer:
    """The same tokenizer, said as the converter understands it, with a beginning of text where only a config says so."""
    spec = json.loads(tokenizer.fast.to_str())
    steps = (spec["pre_tokenizer"] or {}).get("pretokenizers", [])
    plain = [part for step in steps for part in _spelled_out(step)]
    if plain[1:2] == [isolated(GPT_2)] and plain[0] in DIGITS:
        steps[:] = [isolated(BEHIND_DIGITS), *plain[2:]]
    changed = FastTokenizer.from_str(json.dumps(spec))
    first = changed.token_to_id(tokenizer.bos) if tokenizer.bos and tokenizer.adds_bos else None
    if first is not None and changed.encode("").ids[:1] != [first]:
        changed.post_processor = TemplateProcessing(single=[tokenizer.bos, "$A"], special_tokens=[(tokenizer.bos, first)])
    return changed


def _spelled_out(step: dict[str, Any]) -> list[dict[str, Any]]:
    """ByteLevel as the split that it begins with, and the rest of it."""
    if step["type"] == "ByteLevel" and step.get("use_regex", True) and not step["add_prefix_space"]:
        return [isolated(GPT_2), {**step, "use_regex": False}]
    return [step]


def _refused(name: str, reason: str) -> ModelUnsupported:
    return ModelUnsupported(
        "The tokenizer of {model} cannot be carried to OpenVINO: {reason}.",
        hint="Deploy it with --target cpu.",
        model=name,
        reason=reason,
    )
