"""How many tokens a session holds. It stands apart so that an estimate needs no runtime."""

from __future__ import annotations

from typing import Any

from deepseek_cli.errors import UsageError

DEFAULT_CONTEXT = 4096  # tokens; reserved, not touched, until they come


def check_context(model: Any, context: int | None) -> None:
    """Raises UsageError for a context beyond what the model was made for."""
    if context and context > model.config.context:
        raise UsageError(
            "--context {context} is more than the {longest} tokens of {model}.",
            hint="Use at most {longest}.",
            context=context,
            longest=model.config.context,
            model=model.name,
        )
