"""Tool calls in an answer, as models' own templates have them written."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from deepseek_cli.runtime.generate import longest_overlap
from deepseek_cli.runtime.tokenizer import Tokenizer

Call = tuple[str, str]  # name, arguments as JSON


def _json_calls(text: str) -> Iterator[Call]:
    """Qwen's, SmolLM's and Hermes's: <tool_call>{"name": …, "arguments": {…}}</tool_call>"""
    for body in re.findall(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|$)", text, re.DOTALL):
        call = json.loads(body)
        yield str(call["name"]), _as_text(call.get("arguments", {}))


def _sep_calls(text: str) -> Iterator[Call]:
    """DeepSeek-V3's, R1's (with a fenced block) and V3.1's (without)."""
    for head, body in re.findall(r"<｜tool▁call▁begin｜>(.*?)<｜tool▁sep｜>(.*?)(?:<｜tool▁call▁end｜>|$)", text, re.DOTALL):
        fenced = re.fullmatch(r"\s*(\S+)\s*```(?:json)?\s*(.*?)\s*```\s*", body, re.DOTALL)
        name, arguments = fenced.groups() if fenced else (head.strip(), body)
        yield name, _as_text(json.loads(arguments))


def _dsml_calls(text: str) -> Iterator[Call]:
    """DeepSeek-V3.2's."""
    for name, body in re.findall(r'<｜DSML｜invoke name="(.*?)">(.*?)</｜DSML｜invoke>', text, re.DOTALL):
        found = re.findall(r'<｜DSML｜parameter name="(.*?)" string="(true|false)">(.*?)</｜DSML｜parameter>', body, re.DOTALL)
        yield name, _as_text({key: value if plain == "true" else json.loads(value) for key, plain, value in found})


@dataclass(frozen=True, slots=True)
class Form:
    """`sign` in a template says that the model calls so; a call begins with `opens`; `special` are tokens that it is made of."""

    sign: str
    opens: str
    read: Callable[[str], Iterator[Call]]
    special: str


FORMS = (
    Form("<｜DSML｜", "<｜DSML｜function_calls>", _dsml_calls, "DSML"),
    Form("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜>", _sep_calls, "tool▁"),
    Form("<tool_call>", "<tool_call>", _json_calls, "tool_call"),
)


def form_of(tokenizer: Tokenizer) -> Form | None:
    """How the model's template has tools called; None where it knows none."""
    return next((form for form in FORMS if form.sign in tokenizer.template), None)


def shown_tokens(tokenizer: Tokenizer, form: Form) -> frozenset[int]:
    """Special tokens that calls are read from."""
    added = tokenizer.fast.get_added_tokens_decoder()
    return frozenset(i for i, token in added.items() if form.special in token.content)


class ToolReader:
    """Takes pieces of an answer; text before the first call passes, from there on it is held."""

    def __init__(self, form: Form) -> None:
        self.form, self.held, self.calling = form, "", False

    def push(self, text: str) -> str:
        self.held += text
        if self.calling:
            return ""
        at = self.held.find(self.form.opens)
        self.calling = at >= 0
        sure = at if self.calling else len(self.held) - longest_overlap(self.held, [self.form.opens])
        text, self.held = self.held[:sure], self.held[sure:]
        return text

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """What is left as text, and the calls. Calls that cannot be read are text."""
        try:
            calls = list(self.form.read(self.held)) if self.calling else []
        except (ValueError, KeyError, TypeError, RecursionError):
            calls = []
        records = [
            {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in calls
        ]
        return ("" if calls else self.held), records


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
