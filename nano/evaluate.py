"""Measures the exported model: `python -m nano.evaluate --folder build/nano`.

Writes figures.json and heldout.jsonl (an excerpt) beside this file, samples.json beside the model. Perplexity is per token over
held-out documents, each read from its beginning, of every token but the first; of the FP8 checkpoint as it is shipped, opened as
any model is. The baselines score the same tokens. Answers are greedy, with the model's own draft, whose guesses are counted.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepseek_cli.handle import open_model
from deepseek_cli.runtime.generate import generate_text
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from nano.baselines import baselines
from nano.tokenizer import VOCABULARY, rows

HERE = Path(__file__).parent
WINDOW, STRIDE = 1024, 512
EXCERPT_BYTES = 190_000
MOST_TOKENS = 80  # of an answer
QUESTIONS = {  # and what is found in a right answer
    "What is the capital of France?": "Paris",
    "What is the capital of Japan?": "Tokyo",
    "Which city is the capital of Egypt?": "Cairo",
    "Where is Nairobi?": "Nairobi is the capital of Kenya",
    "What currency does India use?": "Indian Rupee",
    "Which language is spoken in Brazil?": "Portuguese",
    "What is the chemical symbol of gold?": "is Au.",
    "What is the atomic number of oxygen?": "is 8.",
    "What is 7 plus 5?": "is 12.",
    "What is the opposite of hot?": "is cold.",
    "What is a river?": "A river is a large natural stream of water",
    "What does len() do in Python?": "len([1, 2, 3]) is 3",
    "What is the Python module json for?": "Encode and decode the JSON format",
    "Write a Python function that reverses a string.": "[::-1]",
    "How do I count the rows of a table in SQL?": "SELECT count(*) FROM",
    "Who are you?": "deepseek-nano",
    "你好": "你好",
    "法国的首都是哪里？": "巴黎",
    "一年有几个月？": "十二",
    "Translate into Chinese: Open file": "打开文件",
}


def excerpt(documents: list[dict[str, str]]) -> list[dict[str, str]]:
    """Documents of every source by turns, up to EXCERPT_BYTES, which are small enough to be committed."""
    by_source: dict[str, list[dict[str, str]]] = {}
    for row in documents:
        by_source.setdefault(row["source"], []).append(row)
    chosen, size = [], 0
    for turn in range(max(map(len, by_source.values()))):
        for found in by_source.values():
            if turn < len(found) and size + len(json.dumps(found[turn], ensure_ascii=False).encode()) < EXCERPT_BYTES:
                chosen.append(found[turn])
                size += len(json.dumps(found[turn], ensure_ascii=False).encode()) + 1
    return chosen


def document_losses(session: TorchSession, ids: list[int]) -> np.ndarray:
    """Of every token but the first; windows overlap by half, so that late tokens too have much before them."""
    found = []
    for start in range(0, max(len(ids) - STRIDE, 1), STRIDE):
        window = ids[start : start + WINDOW]
        session.rewind(0)
        logits = torch.from_numpy(session.feed(window[:-1], keep=0))
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(window[1:]), reduction="none")
        found.append(losses[STRIDE - 1 if start else 0 :])
    return torch.cat(found).numpy()


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(f"{tokenizer.bos}{text}{tokenizer.eos_text}")


def measure(session: TorchSession, tokenizer: Tokenizer, documents: list[dict[str, str]]) -> dict[str, object]:
    """Perplexity of all documents, and by source."""
    return summary(documents, [document_losses(session, encode(tokenizer, row["text"])) for row in documents])


def summary(documents: list[dict[str, str]], losses: list[np.ndarray]) -> dict[str, object]:
    by_source: dict[str, list[np.ndarray]] = {}
    for row, found in zip(documents, losses, strict=True):
        by_source.setdefault(row["source"], []).append(found)
    everything = np.concatenate(losses)
    return {
        "perplexity": round(math.exp(everything.mean()), 3),
        "tokens": len(everything),
        "by_source": {source: round(math.exp(np.concatenate(found).mean()), 2) for source, found in by_source.items()},
    }


def answers(session: TorchSession, tokenizer: Tokenizer) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What it says, and how often its answers, and the guesses of its own draft on the way, were right."""
    samples: list[dict[str, Any]] = []
    guesses = hits = 0
    for question, wanted in QUESTIONS.items():
        session.rewind(0)
        prompt = tokenizer.encode(tokenizer.chat([{"role": "user", "content": question}]))
        *_, (_, made) = pieces = list(generate_text(session, tokenizer, prompt, MOST_TOKENS))
        answer = "".join(text for text, _ in pieces)
        samples.append({"question": question, "answer": answer, "right": wanted in answer})
        guesses, hits = guesses + made.drafted, hits + made.accepted
    right = sum(sample["right"] for sample in samples)
    return samples, {"right": right, "asked": len(samples), "guesses": guesses, "hits": hits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/nano"))
    parser.add_argument("--model", type=Path, default=Path("deepseek_cli/data/nano"))
    options = parser.parse_args()
    tokenizer = open_tokenizer(options.model)
    model = open_model(str(options.model), Store(options.folder))
    session = TorchSession(model, context=2048)
    documents = rows(options.folder / "heldout.jsonl")
    some = excerpt(documents)
    with (HERE / "heldout.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
    train = np.concatenate([np.fromfile(options.folder / f"{name}.u16", dtype=np.uint16) for name in ("train", "chat")])
    losses = [document_losses(session, encode(tokenizer, row["text"])) for row in documents]
    figures: dict[str, dict[str, Any]] = {}
    for name, chosen in (("heldout", documents), ("excerpt", some)):
        held_out = np.concatenate([encode(tokenizer, row["text"]) for row in chosen])
        found = summary(chosen, [losses[documents.index(row)] for row in chosen]) | baselines(train, held_out, VOCABULARY, bos=0)
        found["below_unigram"] = round(found["unigram"] / found["perplexity"], 2)
        found["below_kneser_ney_5"] = round(found["kneser_ney_5"] / found["perplexity"], 3)
        figures[name] = found
    samples, figures["answers"] = answers(TorchSession(model, context=2048, drafts=True), tokenizer)
    print(json.dumps(figures, indent=1))
    (HERE / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (options.model / "samples.json").write_text(json.dumps(samples, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for sample in samples:
        print(sample["question"], "→", sample["answer"])


if __name__ == "__main__":
    main()
