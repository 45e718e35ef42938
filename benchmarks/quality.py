"""Quality, time and memory of every way to round, on SmolLM2-135M off its grid: one table.

Embedding and head stay dense, so that the body alone is judged. KL divergence over 12 windows of 512 tokens of the English
Debian Administrator's Handbook (apt-get install debian-handbook); accuracy over --tokens other tokens of it, with the upper
bound of a paired bootstrap. "Talk" is the divergence over short conversations in the model's template, whose answers are its own.
Every seed takes other stretches of the calibration text; figures are medians over seeds, with the least and the largest.
--peers takes folders with dense weights that other quantizers wrote. --save adds to what the file holds.
"""

from __future__ import annotations

import argparse
import html
import json
import re
from pathlib import Path
from typing import Any

import torch
from common import DEEPSEEK, WORK, Process, median, run, show
from speed import subject

from deepseek_cli.evaluate import HandlePredictor
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.score import Score, most_accuracy_loss
from deepseek_cli.store import Store

HANDBOOK = Path("/usr/share/doc/debian-handbook/html/en-US")
WINDOW, KL_WINDOWS = 512, 12
ANSWER = 100  # tokens at most
HEADERS = ("", "KL", "p99", "talk", "agreement", "perplexity", "accuracy loss", "s", "peak MB")
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
    "int8 channel": ("--int8", "--group", "channel"),
    "qat": ("--qat",),
    "int8 g128 qat": ("--int8", "--group", "128", "--qat"),
}


def handbook() -> str:
    """The text as peers are judged on it: tags and runs of blanks taken out."""
    found = pages(HANDBOOK)
    if not found:
        raise SystemExit("no text: apt-get install debian-handbook")
    return " ".join(found)


def pages(folder: Path) -> list[str]:
    """The plain text of a folder's web pages."""
    bodies = (re.sub(r"(?is)<(script|style|head|nav).*?</\1>", " ", p.read_text("utf-8")) for p in sorted(folder.glob("*.html")))
    return [re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body))).strip() for body in bodies]


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


def rightness(predictor: HandlePredictor, tokens: torch.Tensor) -> torch.Tensor:
    """Whether each token is what the model holds for the likeliest, behind those before it."""
    best = [predictor.logits(i, 0, WINDOW - 1).argmax(-1) for i in range(len(tokens))]
    return torch.cat(best) == tokens[:, 1:].flatten()


def accuracy(reference: torch.Tensor, candidate: torch.Tensor) -> dict[str, float | int]:
    right = torch.stack((reference, candidate), dim=-1)
    return {
        "accuracy": candidate.double().mean().item(),
        "reference_accuracy": reference.double().mean().item(),
        "accuracy_loss_most": most_accuracy_loss(right),
        "tokens": len(right),
    }


def make(name: str, source: Path, seed: int) -> tuple[Path, Process]:
    """The arm's folder, and the process that wrote it."""
    folder = WORK / "quality" / f"{re.sub(r'[^a-z0-9]+', '-', name)}-{seed}"
    dense = () if name.startswith("int8") else ("--rule", "model.embed_tokens=bf16")
    options = (*ARMS[name], *dense, "--seed", seed, "--set", "report=false", "-o", folder, "--force", "--yes", "-q")
    return folder, run(*DEEPSEEK, "quantize", source, *options)


def spread(values: list[float], form: str) -> str:
    """The median, and what lies around it."""
    middle = format(median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} – {max(values):{form}})"


def row(name: str, trials: list[dict[str, Any]]) -> list[str]:
    over = lambda text, key: [trial[text][key] for trial in trials]  # noqa: E731
    losses = [1 - a / b for a, b in zip(over("accuracy", "accuracy"), over("accuracy", "reference_accuracy"), strict=True)]
    took = [trial for trial in trials if "seconds" in trial]
    return [
        name,
        spread(over("kl", "kl"), ".4f"),
        spread(over("kl", "kl_p99"), ".2f"),
        spread(over("talk", "kl"), ".4f"),
        spread(over("kl", "agreement"), ".1%"),
        spread(over("kl", "perplexity"), ".2f"),
        f"{spread(losses, '.2%')}, at most {max(over('accuracy', 'accuracy_loss_most')):.2%}",
        spread([trial["seconds"] for trial in took], ".0f") if took else "-",
        spread([trial["peak_mb"] for trial in took], ".0f") if took else "-",
    ]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100_000, help="of the accuracy; 0 takes those of the divergence")
    parser.add_argument("--arms", help="names, with commas between; all by default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", type=Path, nargs="*", default=[], help="folders with dense weights, of other quantizers")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    saved: dict[str, list[dict[str, Any]]] = {}
    if args.save and args.save.exists():
        saved = json.loads(args.save.read_text(encoding="utf-8"))
    chosen = list(ARMS) if args.arms is None else [name for name in args.arms.split(",") if name]
    source = subject(WORK)
    made = {
        (name, seed): make(name, source, seed) for seed in range(args.seeds) for name in chosen
    }  # while this process is small
    store = Store(WORK / "home")
    model = open_model(str(source), store)
    text = handbook()
    tokens = windows(model, text[100_000 : 100_000 + 6_000 * KL_WINDOWS], KL_WINDOWS)
    more = windows(model, text[200_000 : 200_000 + 6 * args.tokens], args.tokens // WINDOW)
    texts = {"kl": tokens, "talk": conversations(model)}
    references = {name: HandlePredictor(model, t) for name, t in texts.items()}
    right = rightness(HandlePredictor(model, more), more) if len(more) else None

    def judge(folder: Path) -> dict[str, Any]:
        candidate = open_model(str(folder), store)
        cards = {name: compare(references[name], HandlePredictor(candidate, t), t) for name, t in texts.items()}
        found = cards["kl"] if right is None else accuracy(right, rightness(HandlePredictor(candidate, more), more))
        return {**cards, "accuracy": found}

    fresh: dict[str, list[dict[str, Any]]] = {name: [] for name in (*chosen, *(peer.name for peer in args.peers))}
    for (name, seed), (folder, process) in made.items():
        fresh[name].append({"seed": seed, "seconds": process.seconds, "peak_mb": process.peak_mb, **judge(folder)})
        print(row(name, fresh[name]), flush=True)
    for peer in args.peers:
        fresh[peer.name].append(judge(peer))
    saved |= fresh
    show(HEADERS, [row(name, trials) for name, trials in saved.items()])
    if args.save:
        args.save.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
