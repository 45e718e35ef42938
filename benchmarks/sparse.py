"""Dynamic sparse attention in the PyTorch interpreter, beside dense attention (scaled_dot_product_attention).

    python benchmarks/sparse.py [--parts attention,decode,memory,quality,sessions]

**attention, decode**: seconds of `attend` of one layer: from rotated q, k and v to what attention gives, appending to the KV
cache included, and with it page statistics, choosing pages, gathering and attending. Random normal q, k, v; a prompt of 1,024
and 4,096 tokens at once, of 16,384 in chunks of 512 as sessions feed them; one token at a depth. Two shapes of model.
**memory**: the most bytes that PyTorch's allocator held at once inside that call, over what was held when it began: output,
scores, gathered pages and all else; the cache is reserved before.
Sparse attention writes over q; dense attention, which cannot, has an output of its own (2.36 MB at 9 heads).
**quality**: SmolLM2-135M, next-token accuracy and mean loss over all positions of windows that begin with an empty cache, on two
texts: the built-in evaluation text, and the topics of Python's own documentation (`pydoc_data.topics`). `late` is the second half
of each window alone. A block's choice of pages sees its later queries, as any prompt that is fed at once.
**sessions**: the whole model, prompt in chunks of 512, then 32 greedy tokens.
"""

from __future__ import annotations

import gc
import pydoc_data.topics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from common import WORK, arguments, interleave, median, show, smollm2

from deepseek_cli.evaluate import TEXT
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.ops import AttentionSpec, Rope, SparseSpec, forward
from deepseek_cli.ops.pages import Attended
from deepseek_cli.ops.torch_ops import KVCache, TorchOps
from deepseek_cli.ops.torch_sparse import PagedCache, SparseOps
from deepseek_cli.runtime.session import Session
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.torch_session import CHUNK, TorchSession
from deepseek_cli.store import Store
from deepseek_cli.tensors import dense

SHAPES = {"9 heads, 3 kv, 64": (9, 3, 64), "32 heads, 8 kv, 64": (32, 8, 64)}
SPECS = {
    1024: ["tokens=128", "tokens=160", "tokens=192", "tokens=256", "heads=0.75", "tokens=256,heads=0.75"],
    4096: ["tokens=160", "tokens=256", "tokens=512", "tokens=1024"],
    16384: ["tokens=160", "tokens=512", "tokens=1024", "tokens=2048"],
}
QUALITY = {
    1024: ["tokens=128", "tokens=160", "tokens=192", "tokens=256", "heads=0.9", "heads=0.75", "tokens=256,heads=0.75"],
    4096: ["tokens=160", "tokens=256", "tokens=512", "tokens=1024"],
    8192: ["tokens=256", "tokens=512", "tokens=1024"],
}
SESSIONS = {1024: ["tokens=160"], 4096: ["tokens=256", "tokens=512"], 16384: ["tokens=512", "tokens=1024"]}
Run = Callable[[], float]


def layer(spec: AttentionSpec, text: str | None, tensors: list[torch.Tensor], start: int = 0, step: int = 0) -> Run:
    """Seconds of attending in one layer, from token `start` on, `step` tokens at once."""
    total = tensors[0].shape[2]
    cache = PagedCache(total) if text else KVCache(total)
    ops = SparseOps({}, cache, sparse=SparseSpec.parse(text)) if text else TorchOps({}, cache)
    if start:
        TorchOps({}, cache).attend(*(t[:, :, :start] for t in tensors), 0, spec)

    def run() -> float:
        cache.length = start
        pieces = [[p.clone() for p in t[:, :, start:].split(step or total, dim=2)] for t in tensors]  # q is overwritten
        began = time.perf_counter()
        for q, k, v in zip(*pieces, strict=True):
            ops.attend(q, k, v, 0, spec)
            cache.length += q.shape[2]
        return time.perf_counter() - began

    return run


def draw(shape: tuple[int, int, int], length: int) -> tuple[AttentionSpec, list[torch.Tensor]]:
    heads, kv_heads, channels = shape
    torch.manual_seed(0)
    spec = AttentionSpec(heads, kv_heads, channels, channels**-0.5, Rope((1.0,) * (channels // 2)))
    return spec, [torch.randn(1, n, length, channels) for n in (heads, kv_heads, kv_heads)]


def attention(rounds: int, lengths: list[int], decode: bool) -> None:
    rows = []
    for name, shape in SHAPES.items():
        for length in lengths:
            specs = SPECS[length]
            spec, tensors = draw(shape, length)
            start, step = (length - 1, 1) if decode else (0, CHUNK if length > 4096 else 0)
            chosen = [text for text in specs if not decode or "heads" not in text]
            arms = {text or "dense": layer(spec, text or None, tensors, start, step) for text in ["", *chosen]}
            for warm in arms.values():
                warm()
            seen = interleave(arms, 20 * rounds if decode else max(3, rounds * 1024 // length))
            plain = seen.pop("dense")
            for text, values in seen.items():
                ratio = median([a / b for a, b in zip(plain, values, strict=True)])
                figures = [f"{1000 * median(v):.2f} / {1000 * min(v):.2f}" for v in (plain, values)]
                rows.append([name, length, text, *figures, f"{ratio:.2f}", f"{min(plain) / min(values):.2f}"])
            del arms, tensors
            gc.collect()
    what = "one token at a depth" if decode else "a prompt"
    show([what, "tokens", "sparse", "dense ms, median / least", "sparse ms", "times faster, median", "least"], rows)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that PyTorch's allocator held at once during `run`, over what it held before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    held = most = 0
    events = sorted((e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    for event in events:
        held += event.nbytes()
        most = max(most, held)
    return most


def memory() -> None:
    rows = []
    for name, shape in SHAPES.items():
        spec, tensors = draw(shape, 1024)
        peaks = {}
        for text in ["", *SPECS[1024]]:
            cache = PagedCache(1024) if text else KVCache(1024)
            ops = SparseOps({}, cache, sparse=SparseSpec.parse(text)) if text else TorchOps({}, cache)
            cloned = [t.clone() for t in tensors]
            ops.attend(*(t.clone() for t in tensors), 0, spec)
            peaks[text] = peak_bytes(partial(ops.attend, *cloned, 0, spec))
        for text in SPECS[1024]:
            rows.append([name, text, f"{peaks[''] / 1e6:.2f}", f"{peaks[text] / 1e6:.2f}", f"{1 - peaks[text] / peaks['']:.0%}"])
    show(["shape, 1,024 tokens", "sparse", "dense MB", "sparse MB", "smaller by"], rows)


def quality(model: Path, windows: int, lengths: list[int]) -> None:
    handle = open_model(str(model), Store(WORK / "home"))
    weights = {name: dense(ref.read()).float() for name, ref in handle.weights.items()}
    tokenizer, rows = open_tokenizer(handle.root), []
    texts = {
        "evaluation text": TEXT.read_text(encoding="utf-8"),
        "Python's topics": "\n\n".join(pydoc_data.topics.topics.values()),
    }
    for length in lengths:
        for name, text in texts.items():
            ids = tokenizer.encode(text[: 8 * windows * 1024])
            most = max(1, windows * 1024 // length)
            cut = [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)][:most]
            if not cut:
                continue
            plain = score(handle, partial(TorchOps, weights), cut)
            for spec in QUALITY[length]:
                seen = Attended()
                make = partial(SparseOps, weights, sparse=SparseSpec.parse(spec), attended=seen)
                found = score(handle, make, cut)
                kept = [f"{a / b:.1%}" for a, b in zip(found[:2], plain[:2], strict=True)]
                mean = f"{seen.mean:.0f} of {seen.dense:.0f}"
                rows.append([name, f"{len(cut)} × {length}", spec, mean, *kept, f"{found[2] - plain[2]:+.4f}"])
                print(rows[-1], flush=True)
    show(["text", "windows", "sparse", "keys a query", "accuracy kept", "late", "loss, nats"], rows)


@torch.inference_mode()
def score(handle: ModelHandle, make: Callable[[], TorchOps], windows: list[list[int]]) -> tuple[float, float, float]:
    """Right predictions: all, in the second half; mean loss."""
    right = late = count = 0
    loss = 0.0
    for window in windows:
        tokens = torch.tensor([window])
        logits = forward(make(), handle.architecture, handle.config, tokens)[0, :-1]
        hits = logits.argmax(-1) == tokens[0, 1:]
        right, late, count = right + int(hits.sum()), late + int(hits[len(hits) // 2 :].sum()), count + len(hits)
        loss += F.cross_entropy(logits, tokens[0, 1:], reduction="sum").item()
    return right, late, loss / count


def sessions(model: Path, rounds: int, lengths: list[int]) -> None:
    handle = open_model(str(model), Store(WORK / "home"))
    rows = []
    for length in lengths:
        arms: dict[str, Callable[[], tuple[float, float]]] = {}
        for text in ["", *SESSIONS[length]]:
            session = TorchSession(handle, length + 64, sparse=SparseSpec.parse(text) if text else None)
            arms[text or "dense"] = partial(whole, session, length)
        seen = interleave(arms, max(1, rounds * 1024 // length))
        for text in SESSIONS[length]:
            figures = []
            for part in range(2):
                plain, values = ([pair[part] for pair in seen[name]] for name in ("dense", text))
                figures += [f"{median(plain):.2f}", f"{median(values):.2f}"]
                figures.append(f"{median([a / b for a, b in zip(plain, values, strict=True)]):.2f}")
            rows.append([length, text, *figures])
            print(rows[-1], flush=True)
        del arms
        gc.collect()
    headers = ["prefill s, dense", "sparse", "times faster", "32 tokens s, dense", "sparse", "times faster"]
    show(["whole model, tokens", "sparse", *headers], rows)


def whole(session: Session, length: int) -> tuple[float, float]:
    """Seconds of the prompt, and of 32 tokens behind it."""
    session.rewind(0)
    draw = torch.randint(0, 49152, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    began = time.perf_counter()
    token = int(session.feed(draw)[-1].argmax())
    filled = time.perf_counter()
    for _ in range(32):
        token = int(session.feed([token])[-1].argmax())
    return filled - began, time.perf_counter() - filled


def main() -> None:
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--parts", default="attention,decode,memory,quality,sessions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--windows", type=int, default=12, help="windows of 1,024 tokens a text; fewer where they are longer")
    parser.add_argument("--lengths", default="1024,4096,8192,16384", help="tokens; memory has 1,024 alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lengths = [int(word) for word in args.lengths.split(",")]
    parts = args.parts.split(",")
    print(f"PyTorch {torch.__version__}, {args.threads} threads\n")
    with torch.inference_mode():
        if "attention" in parts:
            attention(args.rounds, [n for n in lengths if n in SPECS], decode=False)
        if "decode" in parts:
            attention(args.rounds, [n for n in lengths if n in SPECS], decode=True)
        if "memory" in parts:
            memory()
    if "quality" in parts:
        quality(smollm2(args.work), args.windows, [n for n in lengths if n in QUALITY])
    if "sessions" in parts:
        sessions(smollm2(args.work), args.rounds, [n for n in lengths if n in SESSIONS])


if __name__ == "__main__":
    main()
