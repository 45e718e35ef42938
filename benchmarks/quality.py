"""Quality, time and memory of every way to round, on SmolLM2-135M off its grid: one table.

Embedding and head stay dense, so that the body alone is judged. KL divergence over 12 windows of 512 tokens of the English
Debian Administrator's Handbook (apt-get install debian-handbook); accuracy over --tokens other tokens of it, with the upper
bound of a paired bootstrap. "Talk" is the divergence over short conversations in the model's template, whose answers are its own.
--peers takes folders with dense weights that other quantizers wrote.
"""

from __future__ import annotations

import argparse
import html
import json
import re
from pathlib import Path

import torch
from common import DEEPSEEK, WORK, median, run, show
from speed import subject

from deepseek_cli.evaluate import HandlePredictor
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.score import Score
from deepseek_cli.store import Store

HANDBOOK = Path("/usr/share/doc/debian-handbook/html/en-US")
WINDOW, KL_WINDOWS = 512, 12
ANSWER = 100  # tokens at most
QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about autumn leaves.",
    "How do I make scrambled eggs?",
    "Explain photosynthesis to a child.",
    "Give me three tips for sleeping better.",
    "Translate 'good morning' to Spanish.",
    "Write a Python function that checks if a string is a palindrome.",
    "Summarize the plot of Romeo and Juliet in two sentences.",
    "What causes the seasons on Earth?",
    "Who wrote Pride and Prejudice?",
    "List five fruits that are red.",
    "My computer is slow. What should I do?",
    "What is the difference between a virus and a bacterium?",
    "Write an email asking my boss for a day off.",
    "What is 17 times 6?",
    "Tell me a joke about cats.",
    "How far is the Moon?",
    "Suggest a name for a bakery.",
    "What does HTTP stand for?",
    "Describe the taste of a lemon.",
    "Who was Napoleon?",
    "How can I learn to play the guitar?",
    "Write a SQL query that counts users by country.",
    "What should I see in Rome?",
)
ARMS: dict[str, tuple[str, ...]] = {
    "rtn": ("--algorithm", "rtn"),
    "hqq": ("--algorithm", "hqq"),
    "search": ("--algorithm", "search"),
    "fast (imatrix)": ("--level", "fast"),
    "awq": ("--algorithm", "awq"),
    "gptq": ("--algorithm", "gptq"),
    "autoround": ("--algorithm", "autoround"),
    "balanced (gptaq)": ("--level", "balanced"),
    "best": ("--level", "best"),
    "rtn g128": ("--algorithm", "rtn", "--group", "128"),
    "balanced g128": ("--level", "balanced", "--group", "128"),
    "int8": ("--int8",),
    "int8 g32": ("--int8", "--group", "32"),
}


def handbook() -> str:
    """The text as peers are judged on it: tags and runs of blanks taken out."""
    pages = sorted(HANDBOOK.glob("*.html"))
    if not pages:
        raise SystemExit("no text: apt-get install debian-handbook")
    text = " ".join(re.sub(r"(?is)<(script|style|head|nav).*?</\1>", " ", p.read_text(encoding="utf-8")) for p in pages)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def windows(model: ModelHandle, text: str, count: int) -> torch.Tensor:
    ids = open_tokenizer(model.root).encode(text)
    return torch.tensor([ids[i * WINDOW : (i + 1) * WINDOW] for i in range(min(count, len(ids) // WINDOW))])


def conversations(model: ModelHandle) -> torch.Tensor:
    """Windows of QUESTIONS and the model's own greedy answers, one after another."""
    tokenizer, ids = open_tokenizer(model.root), []
    session = TorchSession(model, 1024, device="cpu")
    for question in QUESTIONS:
        fed = tokenizer.encode_chat(tokenizer.chat([{"role": "user", "content": question}]))
        session.rewind(0)
        ids += fed
        for _ in range(ANSWER):
            ids.append(int(session.feed(fed)[0].argmax()))
            fed = ids[-1:]
            if fed[0] in model.config.eos:
                break
    return torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)


def compare(reference: HandlePredictor, candidate: HandlePredictor, tokens: torch.Tensor) -> dict[str, float | int]:
    score = Score()
    for i, window in enumerate(tokens):
        score.update(reference.logits(i, 0, WINDOW), candidate.logits(i, 0, WINDOW), window[1:])
    return score.result()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100_000, help="of the accuracy; 0 leaves it out")
    parser.add_argument("--arms", default="", help="names, with commas between; all by default")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", nargs="*", default=[], help="folders with dense weights, of other quantizers")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    source = subject(WORK)
    store = Store(WORK / "home")
    model = open_model(str(source), store)
    text = handbook()
    tokens = windows(model, text[100_000 : 100_000 + 6_000 * KL_WINDOWS], KL_WINDOWS)
    more = windows(model, text[200_000 : 200_000 + 6 * args.tokens], args.tokens // WINDOW)
    texts = [t for t in (tokens, conversations(model), more) if len(t)]
    references = [HandlePredictor(model, t) for t in texts]
    chosen = {n: a for n, a in ARMS.items() if not args.arms or n in args.arms.split(",")}
    rows, saved = [], {}
    folders = {name: WORK / "quality" / re.sub(r"\W+", "-", name) for name in chosen}
    taken = {name: [] for name in chosen}
    for _ in range(args.rounds):
        for name, options in chosen.items():
            dense = () if name.startswith("int8") else ("--rule", "model.embed_tokens=bf16")
            command = (
                *DEEPSEEK,
                "quantize",
                source,
                *options,
                *dense,
                "--set",
                "report=false",
                "-o",
                folders[name],
                "--force",
                "-q",
            )
            taken[name].append(run(*command))
    for name, folder in {**folders, **{Path(p).name: Path(p) for p in args.peers}}.items():
        candidate = open_model(str(folder), store)
        cards = [compare(r, HandlePredictor(candidate, t), t) for r, t in zip(references, texts, strict=True)]
        card, talk, wide = cards[0], cards[1], cards[-1] if len(cards) > 2 else cards[0]
        loss = 1 - wide["accuracy"] / wide["reference_accuracy"]
        runs = taken.get(name, [])
        seconds = f"{median([r.seconds for r in runs]):.0f}" if runs else "-"
        peak = f"{median([r.peak_mb for r in runs]):.0f}" if runs else "-"
        saved[name] = {
            "kl": card,
            "talk": talk,
            "accuracy": wide,
            "seconds": [r.seconds for r in runs],
            "peak_mb": [r.peak_mb for r in runs],
        }
        quality = [
            f"{card['kl']:.4f}",
            f"{card['kl_p99']:.2f}",
            f"{talk['kl']:.4f}",
            f"{card['agreement']:.1%}",
            f"{card['perplexity']:.2f}",
        ]
        rows.append([name, *quality, f"{loss:.2%} (≤ {wide['accuracy_loss_most']:.2%})", seconds, peak])
        print(rows[-1], flush=True)
    show(["", "KL", "p99", "talk", "agreement", "perplexity", "accuracy loss", "s", "peak MB"], rows)
    if args.save:
        args.save.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
