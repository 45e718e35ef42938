"""English and 中文: a message is written once, as an English template, and that template is its key in the catalogue."""

from __future__ import annotations

import os
import re
import unicodedata

from deepseek_cli.errors import fill

NO_BREAK = "\u00a0"


def language() -> str:
    """ "zh" or "en", from DEEPSEEK_LANG, LC_ALL, LC_MESSAGES or LANG, the first that says anything."""
    names = ("DEEPSEEK_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
    return "zh" if next((v for n in names if (v := os.environ.get(n))), "").lower().startswith("zh") else "en"


def t(template: str) -> str:
    """The template in the user's language, or as it stands where the catalogue has none."""
    if language() == "en":
        return template
    from deepseek_cli.messages_zh import MESSAGES

    return MESSAGES.get(template, template)


def say(template: str, facts: dict[str, object]) -> str:
    """A message as the user reads it. Facts (names, numbers, paths) are never translated."""
    return fill(t(template), facts)


def cells(text: str) -> int:
    """Columns that a text takes on a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at spaces and between Chinese characters, but not at no-break spaces.

    A closing mark stays with what is before it, an opening one with what follows.
    """
    lines = [""]
    for piece in re.findall(r"（?(?:[\u2e80-\uffef]|[^ \u2e80-\uffef]+)[，。、：；？！）]*| +", text):
        if cells(lines[-1] + piece.rstrip()) > width and lines[-1]:
            lines.append(piece.lstrip())
        else:
            lines[-1] += piece
    return [line.rstrip().replace(NO_BREAK, " ") for line in lines]
