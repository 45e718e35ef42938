"""Whether a small model still answers as its original does: comes to an end, does not go round, keeps its special tokens apart.

Divergence is an average over text that people wrote; a model that goes round in its own answers can score well on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepseek_cli.errors import MemoryShort, ModelCorrupt
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize.engine import REPORT_SECONDS
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.generate import Generation, generate_tokens
from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.runtime.session import Session, open_session
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer

PROMPTS = (  # to a model with a chat template, and to one without
    ("What is the capital of France?", "The capital of France is"),
    ("Write two sentences about the sea.", "The sea was calm that morning, and"),
    ("List five fruits.", "Apples, pears,"),
    ("Write a Python function that adds two numbers.", "def add(a, b):\n"),
    ("用一句话介绍长城。", "长城是"),
)
MOST = 48  # tokens of an answer
CONTEXT = 512
GRAM = 4
TIMES, LEAST = 3, 12  # an end that says the same so often, over so many tokens, goes round
BANDWIDTH = 1e10  # bytes a second that decoding reads, on a slow machine


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    ends: bool  # by itself, within MOST tokens
    distinct: float  # share of its runs of GRAM tokens that are not said twice
    repeats: bool
    special: bool  # its text holds special tokens
    round_trip: bool  # the prompt's tokens are the prompt again


@dataclass(frozen=True, slots=True)
class Sanity:
    """Counts of answers, but for `distinct`, which is a mean."""

    answers: int
    end: int
    repeat: int
    distinct: float
    special: int
    round_trip: int

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Sanity:
        return cls(
            len(answers),
            sum(a.ends for a in answers),
            sum(a.repeats for a in answers),
            sum(a.distinct for a in answers) / max(len(answers), 1),
            sum(a.special for a in answers),
            sum(a.round_trip for a in answers),
        )


def compare_answers(original: ModelHandle, candidate: ModelHandle, reporter: Reporter, *, always: bool = False) -> dict[str, Any]:
    """Both models' answers side by side and what they come to, as plain values; where that takes long only if `always`.

    Warns of each way in which the candidate degenerates and the original does not.
    """
    seconds = 4 * original.parameters * len(PROMPTS) * MOST / BANDWIDTH
    if seconds > REPORT_SECONDS and not always:
        return {"unmeasured": f"estimated at {seconds:.0f} s"}
    try:
        before, after = (answers(model, reporter) for model in (original, candidate))
    except (MemoryShort, ModelCorrupt) as error:  # a template that fails is not the small model's doing
        return {"unmeasured": str(error)}
    warn(Sanity.of(before), Sanity.of(after), reporter)
    said = zip(prompts(open_tokenizer(original.root)), before, after, strict=True)
    return {
        "original": asdict(Sanity.of(before)),
        "result": asdict(Sanity.of(after)),
        "samples": [{"prompt": prompt, "original": a.text, "result": b.text} for prompt, a, b in said],
    }


def prompts(tokenizer: Tokenizer) -> list[str]:
    return [question if tokenizer.template else beginning for question, beginning in PROMPTS]


def answers(model: ModelHandle, reporter: Reporter) -> list[Answer]:
    tokenizer = open_tokenizer(model.root)
    session = open_session(model, context=min(CONTEXT, model.config.context))
    found = []
    for prompt in prompts(tokenizer):
        session.rewind(0)
        found.append(answer(session, tokenizer, prompt))
        reporter.progress("answer", len(found), len(PROMPTS))
    return found


def answer(session: Session, tokenizer: Tokenizer, prompt: str) -> Answer:
    text = tokenizer.chat([{"role": "user", "content": prompt}]) if tokenizer.template else prompt
    ids, made = tokenizer.encode_chat(text), Generation()
    if len(ids) < session.context:
        for _ in generate_tokens(session, ids, MOST, Sampling(), tokenizer.eos, made):
            pass
    shown = tokenizer.decode(made.tokens, special=True)
    hidden, added = tokenizer.stream().hidden, tokenizer.fast.get_added_tokens_decoder()
    distinct = distinct_share(made.tokens)
    return Answer(
        tokenizer.decode(made.tokens),
        made.finish == "stop",
        distinct,
        goes_round(made.tokens) or distinct < 0.5,
        any(added[i].content in shown for i in hidden),
        tokenizer.decode(ids, special=True).endswith(text.lstrip()),
    )


def distinct_share(tokens: Sequence[int]) -> float:
    grams = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def goes_round(tokens: Sequence[int]) -> bool:
    for period in range(1, len(tokens) // TIMES + 1):
        end = tokens[-max(TIMES * period, LEAST) :]
        if len(end) >= LEAST and end[period:] == end[:-period]:
            return True
    return False


def warn(before: Sanity, after: Sanity, reporter: Reporter) -> None:
    if after.repeat > before.repeat:
        reporter.warn(
            "{after} of {count} answers repeat themselves, and {before} of the original's.",
            after=after.repeat,
            count=after.answers,
            before=before.repeat,
        )
    if 2 * after.end < before.end:
        reporter.warn(
            "{after} of {count} answers come to an end, and {before} of the original's.",
            after=after.end,
            count=after.answers,
            before=before.end,
        )
    if after.special > before.special:
        reporter.warn(
            "{after} of {count} answers hold special tokens, and {before} of the original's.",
            after=after.special,
            count=after.answers,
            before=before.special,
        )
    if after.round_trip < before.round_trip:
        reporter.warn(
            "{after} of {count} prompts are the same text again behind their tokens, and {before} with the original's.",
            after=after.round_trip,
            count=after.answers,
            before=before.round_trip,
        )
