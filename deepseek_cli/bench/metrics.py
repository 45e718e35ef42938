"""What is measured, in which unit and by which formula.

A figure's name says where it was taken: `prefill@512` of a prompt of 512 tokens, `decode@512` with 512 tokens in the KV cache as
its first token is fed, `decode@512+64` where several counts of new tokens are measured.
"""

from __future__ import annotations

import re

from deepseek_cli.bench.statistics import LEAST, RESAMPLES

METRICS: dict[str, tuple[str, str]] = {
    "load": ("s", "opening the session in a fresh process, its imports done; files as the page cache holds them"),
    "load_cold": ("s", "the same, the model's files (not the libraries') dropped from the page cache just before"),
    "start": ("s", "from starting a process to its answer to the first prompt: Python, imports, load, first_token"),
    "start_cold": ("s", "the same, the model's files (not the libraries') dropped from the page cache just before"),
    "first_token": (
        "ms",
        "from the prompt's token ids to the first new token id: prefill, and choosing the likeliest; no tokenization",
    ),
    "prefill": ("tok/s", "prompt tokens / seconds of feeding them into an empty cache, logits of the last position only"),
    "decode": ("tok/s", "new tokens / sum of their gaps, at this depth"),
    "gap_p50": ("ms", "half of the gaps between tokens are at most this; a gap is feeding a token and choosing the next"),
    "gap_p95": ("ms", "95 % of the gaps between tokens at this depth are at most this (nearest rank), round by round"),
    "gap_p99": ("ms", "99 % of the gaps of all rounds together are at most this (nearest rank)"),
    "peak": ("MB", "the most that was resident in the model's process since it started; 1 MB is 1,000,000 bytes"),
    "rss": ("MB", "resident after decoding at the greatest depth, anonymous + file-backed"),
    "anonymous": ("MB", "the part of rss that no file backs: heaps, activations, KV cache, converted weights"),
    "file": ("MB", "the part of rss that files back: mapped weights, libraries"),
    "kv": ("MB", "bytes of the KV cache that hold tokens, after decoding at the greatest depth"),
    "touched": (
        "MB",
        "counted, not measured: bytes that a token reads at the middle of this decoding: weights as stored (of an embedding a "
        "row, of experts those expected) + KV cache",
    ),
    "kl": (
        "nats",
        "mean KL divergence from the original's predictions: from the report card, a bundle's being that of the model it was "
        "made from; measured as the arm runs where there is no card",
    ),
    "agreement": ("%", "positions where the likeliest token is the original's; source as of kl"),
    "perplexity": ("", "exp of the mean negative log-likelihood of the text's tokens; source as of kl"),
}
SERVED: dict[str, tuple[str, str]] = {  # of a server under load; percentiles by nearest rank, round by round
    "tokens": ("tok/s", "tokens of all answers / seconds from the first request to the end of the last answer"),
    "answers": ("req/s", "whole answers / the same seconds"),
    "goodput": (
        "req/s",
        "whole answers within both limits / the same seconds: first_limit to the first piece of text, and "
        "gap_limit for each token behind it on average",
    ),
    **{f"ttft_p{p}": ("ms", f"{p} % of answers began within this time from the request on") for p in (50, 95, 99)},
    **{
        f"itl_p{p}": ("ms", f"{p} % of the gaps between pieces of text, which most servers send a token each")
        for p in (50, 95, 99)
    },
    **{f"e2e_p{p}": ("ms", f"{p} % of answers were whole within this time from the request on") for p in (50, 95, 99)},
    "failed": ("req", "requests of a round that got an error, or no whole answer"),
    "prompt": ("tok", "mean tokens of a prompt, as the server counts them"),
    "processor": (
        "ms/tok",
        "processor time of the server's process / tokens of all answers; only of servers that this run starts",
    ),
}
METRICS |= SERVED
STATISTICS: dict[str, str] = {
    "median ± mad": "over rounds; mad is the median absolute deviation from the median",
    "ratio": "median over rounds of arm / first arm in the same round",
    "interval": f"of 95 %, by percentile bootstrap of that median: {RESAMPLES} draws of the rounds, seeded; needs {LEAST}",
    "noise": "how far the interval of a ratio of the first arm to itself reaches from 1: each round over the one "
    "two rounds before, which had the same place in the order",
    "% of limit": "a rate / the lower of two limits: tokens × bandwidth / bytes touched, and tokens × the peak of matrix "
    "products / operations; bandwidth and peak are measured in this run, on as many threads",
    "slowdown": "time per token / the reference's - 1; its interval is by percentile bootstrap of both medians, or of the "
    "paired median where both are in this run; a gate fails where the whole interval lies above it, in two passes",
}
MORE_IS_BETTER = ("prefill", "decode", "agreement", "tokens", "answers", "goodput")
PLACE = re.compile(r"(\w+)(?:@(\d+)(?:\+(\d+))?)?")


def base(name: str) -> str:
    return name.partition("@")[0]


def unit(name: str) -> str:
    return METRICS[base(name)][0]


def place(name: str) -> tuple[int, int]:
    """Prompt or depth, and new tokens, for sorting."""
    match = PLACE.fullmatch(name)
    return (int(match[2] or 0), int(match[3] or 0)) if match else (0, 0)


def decodings(depth: int, news: tuple[int, ...]) -> dict[str, int]:
    """Where a decoding is taken, as the second part of metrics' names, and its count of new tokens."""
    return {f"{depth}+{new}" if len(news) > 1 else str(depth): new for new in news}
