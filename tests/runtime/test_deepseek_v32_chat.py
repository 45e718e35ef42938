"""Tools in DeepSeek-V3.2's prompts, against prompts that its own encoder wrote; see deepseek_v32/README.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.runtime.chat import render
from deepseek_cli.runtime.deepseek_v32_chat import TEMPLATE

VECTORS = Path(__file__).parent / "deepseek_v32"
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
QUESTION, RESULT = {"role": "user", "content": "1+1=?"}, {"role": "tool", "content": "2"}


def conversation(name: str) -> dict[str, Any]:
    """Messages, and the tools for all of them; arguments are JSON text in the files and mappings for a template."""
    found: dict[str, Any] = json.loads((VECTORS / name).read_text(encoding="utf-8"))
    for message in found["messages"]:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return found


def prompt(messages: list[dict[str, Any]], **variables: Any) -> str:
    return render(TEMPLATE, messages, BOS, EOS, **variables)


def published(name: str) -> str:
    return (VECTORS / name).read_text(encoding="utf-8").removesuffix("\n")


@pytest.mark.parametrize(
    ("asked", "wanted"), [("test_input.json", "test_output.txt"), ("search_opening.json", "search_opening.txt")]
)
def test_the_published_prompts(asked: str, wanted: str) -> None:
    assert prompt(**conversation(asked), thinking=True) == published(wanted)


def test_the_template_is_the_same_for_transformers() -> None:
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=FastTokenizer.from_str('{"model": {"type": "BPE", "vocab": {}, "merges": []}}'),
        bos_token=BOS,
        eos_token=EOS,
    )
    found = conversation("test_input.json")
    text = theirs.apply_chat_template(
        found["messages"], tools=found["tools"], chat_template=TEMPLATE, thinking=True, tokenize=False, add_generation_prompt=True
    )
    assert text == published("test_output.txt")


def test_without_thinking_all_of_it_is_left_out() -> None:
    manual, rest = published("test_output.txt").split("</functions>")
    assert "<think>" in rest
    assert prompt(**conversation("test_input.json")) == manual + "</functions>" + re.sub("<think>.*?</think>", "</think>", rest)


def test_results_hand_over_to_the_assistant() -> None:
    found = conversation("test_input.json")
    messages = found["messages"][:-1]  # ends with two results
    before, after = published("test_output.txt").rsplit("\n\n<think>", 1)
    assert after.startswith("Got the weather data")
    assert prompt(messages, tools=found["tools"], thinking=True) == before + "\n\n<think>"
    assert prompt(messages, tools=found["tools"], thinking=True, answer=False) == before
    assert prompt(messages, tools=found["tools"]).endswith("\n</function_results>\n\n</think>")


def test_tools_without_a_system_message_stand_at_the_beginning() -> None:
    found = conversation("test_input.json")
    wanted = published("test_output.txt").replace("You are a helpful Assistant.", "")
    assert prompt(found["messages"][1:], tools=found["tools"], thinking=True) == wanted


def test_values_that_are_no_text_are_written_as_json() -> None:
    values = {"text": "true", "flag": True, "list": [1, "é"], "object": {"a": None}}
    call = {"function": {"name": "f", "arguments": values}}
    text = prompt([QUESTION, {"role": "assistant", "tool_calls": [call]}])
    assert re.findall(r'name="(\w+)" string="(\w+)">(.*)</', text) == [
        ("text", "true", "true"),
        ("flag", "false", "true"),
        ("list", "false", '[1, "é"]'),
        ("object", "false", '{"a": null}'),
    ]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"role": "critic", "content": "3"}], "it knows no role critic"),
        ([RESULT], "a tool's result follows no call"),
        ([QUESTION, {"role": "assistant", "tool_calls": [CALL]}, RESULT, RESULT], "a tool's result follows no call"),
        ([QUESTION, {"role": "assistant", "tool_calls": [CALL]}, QUESTION], "a tool call has no result"),
        ([QUESTION, {"role": "assistant", "tool_calls": [CALL, CALL]}, RESULT], "a tool call has no result"),
        (
            [QUESTION, {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}],
            "the arguments of a tool call are no mapping: add",
        ),
    ],
)
def test_what_cannot_be_said_is_refused(messages: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ModelCorrupt) as error:
        prompt(messages, tools=[TOOL])
    assert says in str(error.value)
