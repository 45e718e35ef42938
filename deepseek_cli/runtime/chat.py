"""Chat templates: Jinja from a model's repository, which is hostile input and runs in a sandbox that cannot reach anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from deepseek_cli.errors import ModelCorrupt

MAX_TEMPLATE_CHARACTERS = 1 << 20
FALLBACK = (
    "{% for m in messages %}{{ m.role.capitalize() }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    bos: str | None,
    eos: str | None,
    *,
    answer: bool = True,
    **variables: Any,
) -> str:
    """The conversation as text; without a template of its own, a model gets plain "User:" and "Assistant:" lines.

    `variables` are what a template calls its own, such as `thinking` or `tools`.
    Raises ModelCorrupt when the template fails, is refused by the sandbox, runs too long, or is absurdly long.
    """
    from deepseek_cli.runtime.sandbox import Sandbox

    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise _failed("it is too long")
    environment = Sandbox()
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        return environment.from_string(template or FALLBACK).render(
            {"messages": list(messages), "tools": None, "documents": None, "bos_token": bos or "", "eos_token": eos or ""}
            | {"add_generation_prompt": answer}
            | variables
        )
    except Exception as error:  # hostile input fails in every way there is
        raise _failed(str(error).rstrip(".") or type(error).__name__) from None


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _failed(reason: str) -> ModelCorrupt:
    return ModelCorrupt(
        "The model's chat template fails: {reason}.", hint="Use --raw to continue a prompt without it.", reason=reason
    )
