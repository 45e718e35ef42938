"""The text that calibration looks at: built in, or the user's, cut into windows of tokens.

Where the built-in one serves a model that has a chat template, every eighth window holds conversations in it: nothing else
shows a model's special tokens, and what a conversation asks of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepseek_cli.errors import ModelCorrupt, UsageError
from deepseek_cli.runtime.tokenizer import Tokenizer

BUILTIN = Path(__file__).parent.parent / "data" / "calibration.txt"
CONVERSATIONS = BUILTIN.with_name("calibration-conversations.jsonl")  # a line is a list of what user and model say in turn
ROLES = ("user", "assistant")
EVERY = 8  # windows, of which one holds conversations
WINDOW = 512  # tokens
GOLDEN = (5**0.5 - 1) / 2  # whose multiples leave no two seeds close to each other
FEWEST = 4  # windows; below, statistics say more about the text than about the model


@dataclass(frozen=True, slots=True)
class Calibration:
    """`windows` [count, length], `conversations` of them in the model's chat template; `sha256` is that of the whole text.

    Another `seed` means other stretches of the same text.
    """

    windows: Tensor
    name: str
    sha256: str
    conversations: int = 0
    seed: int = 0


def read_calibration(
    tokenizer: Tokenizer, source: str, tokens: int, context: int, language: str | None = None, seed: int = 0
) -> Calibration:
    """About `tokens` tokens in windows spread evenly over the text; `source` is a file, or "builtin".

    `seed` moves all windows by the same part of the distance between two of them, none for 0.

    Raises UsageError for a text that is missing, empty, binary, too short, or not in the `language` it is said to be in.
    """
    file = BUILTIN if source == "builtin" else Path(source)
    text = read_text(file)
    if language and not _is_in(text, language):
        raise UsageError(
            "{file} is not in the language {language}.",
            hint="Give another text, or leave the language out.",
            file=file,
            language=language,
        )
    ids = tokenizer.encode(text)
    length = min(WINDOW, context)
    count = min(tokens // length, len(ids) // length)
    if count < FEWEST:
        raise UsageError(
            "{file} gives {count} windows of {length} tokens, and calibration needs {least}.",
            hint="Give a longer text, or use --algorithm search, which needs none.",
            file=file,
            count=count,
            length=length,
            least=FEWEST,
        )
    moved = seed * GOLDEN % 1
    starts = [int((i + moved) * (len(ids) - length) / (count - 1 + moved)) for i in range(count)]
    windows = [ids[start : start + length] for start in starts]
    talk = _conversations(tokenizer, length) if source == "builtin" else iter(())
    spoken = list(zip(range(count - 1, -1, -EVERY), talk, strict=False))  # from the end on, which is held out
    for place, window in spoken:
        windows[place] = window
    known = text.encode() + (CONVERSATIONS.read_bytes() if spoken else b"")
    return Calibration(torch.tensor(windows), file.name, hashlib.sha256(known).hexdigest(), len(spoken), seed)


def _conversations(tokenizer: Tokenizer, length: int) -> Iterator[list[int]]:
    """Full windows of conversations, one after another; none where the model has no template, or one that refuses them."""
    if not tokenizer.template:
        return
    ids: list[int] = []
    for line in CONVERSATIONS.read_text(encoding="utf-8").splitlines():
        turns = [{"role": ROLES[i % 2], "content": said} for i, said in enumerate(json.loads(line))]
        try:
            ids += tokenizer.encode_chat(tokenizer.chat(turns, answer=False))
        except ModelCorrupt:
            return
        if len(ids) >= length:
            yield ids[:length]
            ids = []


def read_text(file: Path) -> str:
    """Raises UsageError for a file that is not there, is not text, or is empty."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError("{file} cannot be read: {reason}.", hint="Check the path.", file=file, reason=error.strerror) from None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError("{file} is not UTF-8 text.", hint="Convert it, or give another text.", file=file)
    if not text.strip():
        raise UsageError("{file} is empty.", hint="Give a text.", file=file)
    return text


def _is_in(text: str, language: str) -> bool:
    """Whether letters are of the script that the language is written in, for the most part."""
    letters = [c for c in text[:1_000_000] if c.isalpha()]
    chinese = sum("一" <= c <= "鿿" for c in letters) / max(len(letters), 1)
    return chinese > 0.3 if language == "zh" else chinese < 0.05
