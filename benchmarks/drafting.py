"""Decoding with lossless drafting beside plain decoding of the same bundle: `deepseek run --draft`, on three kinds of prompts.

    python benchmarks/drafting.py [--bundle FOLDER] [--threads 2] [--cpu-time]
    python benchmarks/drafting.py --bundle NANO-BUNDLE --kinds asked,code,summary,chat      # with its layer for it, too

**code**: functions of Python's standard library, to be written again with a change. **summary**: paragraphs of the built-in
evaluation text, to be summarised with quotations. **chat**: questions without any text to copy from. **asked**: what nano was
tuned to answer. Greedy; both arms have one session each and take turns, prompt by prompt. The ratio is that of seconds of
decoding (the prefill is the same): the geometric mean, over all prompts of a kind, of the median over rounds, with a 95 %
bootstrap interval over prompts; **lowest** is the worst prompt. `--cpu-time` compares the processor time of one thread, which a
busy machine disturbs least.

**equal**: texts that are those of plain decoding. Where two part, the margin of the likeliest token is compared with what
rows fed one by one and all at once differ by over that very text: a margin above that noise ends this script.
"""

from __future__ import annotations

import heapq
import statistics
import textwrap
import time
from collections.abc import Callable, Sequence
from functools import partial
from inspect import getsource
from math import exp
from pathlib import Path

import numpy as np
from common import DEEPSEEK, arguments, interleave, median, run, show, smollm2

from deepseek_cli.evaluate import TEXT
from deepseek_cli.handle import Bundle, open_any
from deepseek_cli.runtime.generate import Generation, generate_tokens
from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.runtime.session import Session, open_folder, open_session
from deepseek_cli.runtime.speculate import Drafter
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer
from deepseek_cli.store import Store

EDITS = {
    textwrap.indent: "Rename the argument prefix to start",
    statistics.mode: "Rename the argument data to values",
    heapq.nlargest: "Rename the argument n to count",
    textwrap.dedent: "Rename the argument text to source",
    statistics.median: "Add a comment to each line",
    heapq.merge: "Rename the argument reverse to falling",
}
QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Write a short story about a lighthouse keeper.",
    "How do I make bread rise better?",
    "Explain why the sky is blue to a child.",
    "Give me five ideas for a birthday party.",
    "What should I visit in Kyoto in three days?",
)
CONTEXT = 2048


def prompts() -> dict[str, list[str]]:
    from nano.evaluate import QUESTIONS as ASKED

    paragraphs = [p for p in TEXT.read_text(encoding="utf-8").split("\n\n") if len(p) > 600][: len(EDITS)]
    return {
        "code": [f"{edit}, and write the whole function again:\n\n```python\n{getsource(f)}```" for f, edit in EDITS.items()],
        "summary": [f"Summarise this text, and quote its most important sentences word for word:\n\n{p}" for p in paragraphs],
        "chat": list(QUESTIONS),
        "asked": list(ASKED),
    }


class Arm:
    """A session, its clock, and what it said of each prompt."""

    def __init__(self, session: Session, tokenizer: Tokenizer, drafts: bool, most: int, clock: Callable[[], float]) -> None:
        self.session, self.tokenizer, self.drafts, self.most, self.clock = session, tokenizer, drafts, most, clock
        self.made: dict[str, Generation] = {}

    def tokens(self, prompt: str) -> list[int]:
        return self.tokenizer.encode_chat(self.tokenizer.chat([{"role": "user", "content": prompt}]))

    def __call__(self, prompt: str) -> float:
        """Seconds a token behind the first. The drafter is a new one, as in a process of its own."""
        self.session.rewind(0)
        made, start = Generation(), 0.0
        drafter = Drafter(self.clock) if self.drafts else None
        for _ in generate_tokens(self.session, self.tokens(prompt), self.most, Sampling(), self.tokenizer.eos, made, drafter):
            start = start or self.clock()
        self.made[prompt] = made
        return (self.clock() - start) / max(len(made.tokens) - 1, 1)


def parting(arm: Arm, prompt: str, plain: Sequence[int], drafted: Sequence[int]) -> tuple[float, float] | None:
    """Where two texts part: the margin of the likeliest token, and the noise, which is the largest difference of any logit
    between the same rows fed one by one and at once. None where they are equal."""
    same = next((i for i, (a, b) in enumerate(zip(plain, drafted, strict=False)) if a != b), min(len(plain), len(drafted)))
    if same == max(len(plain), len(drafted)):
        return None
    session = arm.session
    session.rewind(0)
    start = session.feed(arm.tokens(prompt)).copy()
    singly = np.concatenate([start, *(session.feed([token]).copy() for token in plain[:same])])
    session.rewind(session.position - same)
    at_once = np.concatenate([start, session.feed(plain[:same], keep=0)]) if same else start
    second, first = np.partition(singly[-1], -2)[-2:]
    return float(first - second), float(np.abs(singly - at_once).max())


def interval(ratios: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """The geometric mean and its 95 % bootstrap interval."""
    logs = np.log(ratios)
    means = np.exp(np.random.default_rng(0).choice(logs, (draws, len(logs))).mean(axis=1))
    return exp(logs.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def measured(arms: dict[str, Arm], kind: str, texts: Sequence[str], rounds: int) -> list[object]:
    ratios, equal, counted, partings = [], 0, 0, []
    for prompt in texts:
        seconds = interleave({name: partial(arm, prompt) for name, arm in arms.items()}, rounds)
        ratios.append(median([a / b for a, b in zip(seconds["plain"], seconds["drafting"], strict=True)]))
        plain, drafted = (arms[name].made[prompt].tokens for name in ("plain", "drafting"))
        counted += len(plain)
        if found := parting(arms["plain"], prompt, plain, drafted):
            partings.append(found)
            if found[0] >= found[1]:
                raise SystemExit(f"{kind}: drafting said something else, by a margin of {found[0]:.3g}, noise {found[1]:.3g}")
        else:
            equal += 1
    mean, low, high = interval(ratios)
    made = [arms["drafting"].made[prompt] for prompt in texts]
    drafted_tokens, accepted = sum(m.drafted for m in made), sum(m.accepted for m in made)
    return [
        kind,
        counted,
        f"{mean:.2f} ({low:.2f} – {high:.2f})",
        f"{min(ratios):.2f}",
        f"{accepted} of {drafted_tokens}",
        f"{equal} of {len(texts)}",
        ", ".join(f"{margin:.2g} < {noise:.2g}" for margin, noise in partings) or "–",
    ]


def subject(work: Path) -> Path:
    folder = work / "drafting"
    if not (folder / "bundle").exists():
        run(*DEEPSEEK, "quantize", smollm2(work), "--scheme", "int4-g32", "--algorithm", "rtn", "-o", folder / "model", "--force")
        run(*DEEPSEEK, "deploy", folder / "model", "--target", "cpu", "-o", folder / "bundle")
    return folder / "bundle"


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--bundle", type=Path, help="another than SmolLM2-135M-Instruct in int4-g32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=192)
    parser.add_argument("--kinds", default="code,summary,chat")
    parser.add_argument("--cpu-time", action="store_true", help="of one thread; wants --threads 1")
    parser.add_argument("--text-only", action="store_true", help="guesses from the text alone")
    parser.add_argument("--exact", action="store_true", help="activations not rounded: texts should be equal to the token")
    options = parser.parse_args()
    bundle = open_any(str(options.bundle or subject(options.work)), Store(options.work))
    assert isinstance(bundle, Bundle)
    tokenizer, clock = open_tokenizer(bundle.root), time.thread_time if options.cpu_time else time.perf_counter
    arms = {}
    for name in ("plain", "drafting"):
        session: Session = open_folder(bundle.target, bundle.root, bundle.config, CONTEXT, options.threads, exact=options.exact)
        if name == "drafting" and not (options.text_only or options.exact):
            session = open_session(bundle, context=CONTEXT, threads=options.threads, drafts=True)
        arms[name] = Arm(session, tokenizer, name == "drafting", options.new_tokens, clock)
    show(
        ["prompts", "tokens", "drafting over plain", "lowest", "guesses right", "equal texts", "margins where they part < noise"],
        [measured(arms, kind, prompts()[kind], options.rounds) for kind in options.kinds.split(",")],
    )


if __name__ == "__main__":
    main()
