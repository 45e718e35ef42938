"""Chat templates: Jinja from a model's repository, which is hostile input and runs in a sandbox that cannot reach anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from deepseek_cli.errors import ModelCorrupt

MAX_TEMPLATE_CHARACTERS = 1 << 20
FALLBACK = "{% for m in messages %}{{ m.role.capitalize() }}: {{ m.content }}\n\n{% endfor %}Assistant:"


def render(template: str, messages: Sequence[Mapping[str, str]], bos: str | None, eos: str | None) -> str:
    """The conversation as text; without a template of its own, a model gets plain "User:" and "Assistant:" lines.

    Raises ModelCorrupt when the template fails, is refused by the sandbox, or is absurdly long.
    """
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise _failed("it is too long")
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        return environment.from_string(template or FALLBACK).render(
            messages=list(messages), add_generation_prompt=True, bos_token=bos or "", eos_token=eos or ""
        )
    except Exception as error:  # hostile input fails in every way there is
        raise _failed(str(error).rstrip(".")) from None


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _failed(reason: str) -> ModelCorrupt:
    return ModelCorrupt(
        "The model's chat template fails: {reason}.", hint="Use --raw to continue a prompt without it.", reason=reason
    )
