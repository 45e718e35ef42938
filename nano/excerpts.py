"""Builds the texts that quantization calibrates and is measured on: `python -m nano.excerpts --folder build/nano`.

Calibration is cut from the corpus' training documents, the second evaluation text from its held-out ones: no document is
in both. Excerpts of one length from as many documents as there are, sources taking turns, so that any stretch is mixed.
Conversations to calibrate on are drawn from those that nano is trained on.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

SEED = 4
EXCERPT = 1500  # bytes
CONVERSATIONS = 600
DATA = Path(__file__).parent.parent / "deepseek_cli" / "data"
# Share of the bytes that each source gives: English prose, documentation, code, Chinese
SHARES = {
    "austen": 0.14,
    "bible": 0.05,
    "devil": 0.06,
    "jargon": 0.12,
    "wordnet": 0.03,
    "python-docs": 0.14,
    "postgresql-docs": 0.09,
    "sqlite-docs": 0.09,
    "python-code": 0.14,
    "poetry": 0.03,
    "home-assistant": 0.03,
    "jupyterlab": 0.03,
    "monaco": 0.025,
    "typescript": 0.025,
}


def paragraphs(text: str, size: int) -> Iterator[str]:
    """Stretches of whole lines, each of about `size` bytes."""
    part: list[str] = []
    length = 0
    for line in text.split("\n"):
        part.append(line)
        length += len(line.encode()) + 1
        if length >= size:
            yield "\n".join(part).strip()
            part, length = [], 0


def excerpts(documents: list[dict[str, str]], source: str, size: int, random_: random.Random) -> list[str]:
    """Excerpts of `size` bytes in all, from as many documents of a source as possible."""
    texts = [list(paragraphs(row["text"], EXCERPT)) for row in documents if row["source"] == source]
    texts = [random_.sample(parts, len(parts)) for parts in texts if parts]
    random_.shuffle(texts)
    chosen: list[str] = []
    while texts and sum(len(part.encode()) for part in chosen) < size:
        chosen.append(texts[0].pop())
        texts = [*texts[1:], texts[0]] if texts[0] else texts[1:]
    return chosen


def build(rows: list[dict[str, str]], size: int) -> str:
    random_ = random.Random(SEED)
    chosen = {source: excerpts(rows, source, round(share * size), random_) for source, share in SHARES.items()}
    places = [(i / len(parts), part) for parts in chosen.values() for i, part in enumerate(parts)]
    return "\n\n".join(part for _, part in sorted(places)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/nano"))
    folder = parser.parse_args().folder
    for name, text, size in (("train", "calibration", 400_000), ("heldout", "evaluation-documents", 60_000)):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        (DATA / f"{text}.txt").write_text(build(rows, size), encoding="utf-8")
    talk = (folder / "chat.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    drawn = random.Random(SEED).sample(list(dict.fromkeys(talk)), CONVERSATIONS)
    (DATA / "calibration-conversations.jsonl").write_text("".join(drawn), encoding="utf-8")


if __name__ == "__main__":
    main()
