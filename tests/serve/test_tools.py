"""Calls of tools, read from what models write, however it is cut into pieces."""

from __future__ import annotations

import json

import pytest

from deepseek_cli.serve.tools import FORMS, ToolReader

WRITTEN = {
    "<tool_call>": 'Sure.<tool_call>\n{"name": "f", "arguments": {"x": [1, "}"]}}\n</tool_call>',
    "<｜tool▁calls▁begin｜>": "Sure.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
    '{"x": [1, "}"]}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "<｜DSML｜": 'Sure.<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="x" string="false">[1, "}"]'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.sign)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_calls(form: object, size: int) -> None:
    reader, text = ToolReader(form), WRITTEN[form.sign]  # type: ignore
    said = "".join(reader.push(text[i : i + size]) for i in range(0, len(text), size))
    rest, calls = reader.finish()
    assert (said + rest, [call["function"]["name"] for call in calls]) == ("Sure.", ["f"])
    assert json.loads(calls[0]["function"]["arguments"]) == {"x": [1, "}"]}


def test_calls_that_cannot_be_read_are_text() -> None:
    reader = ToolReader(FORMS[-1])
    assert reader.push("a <tool_call>{nonsense") == "a "
    assert reader.finish() == ("<tool_call>{nonsense", [])


def test_v31_writes_its_calls_without_a_fence() -> None:
    reader = ToolReader(FORMS[1])
    reader.push('<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"x": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>')
    assert reader.finish()[1][0]["function"] == {"name": "f", "arguments": '{"x": 1}'}
