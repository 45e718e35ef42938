"""English template → 中文. Names in braces stay as they are."""

MESSAGES: dict[str, str] = {}
