"""Trains deepseek-nano: `python -m nano.train --folder build/nano`, on the tokens that nano.tokenizer wrote.

Seeded; saves every five minutes and goes on from there when started again. The rate is constant and then falls to nothing over
the last part, by progress; then, for `--tune` steps, from a lower one again, mostly on conversations. A number written to the
file `steps` in the folder makes a running training longer or shorter.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, multiprocessing, nn

from deepseek_cli.architectures.deepseek import DEEPSEEK_V3, draft
from deepseek_cli.ops import hidden_states
from nano.model import Nano, TrainOps, balance, fused
from nano.optimizer import Optimizer

SEED = 20
TOKENS = 4096  # a step
LENGTH, LONG_LENGTH = 512, 2048
LONG_PART = 0.1  # the last steps see long sequences
WARM_UP = 40  # steps
DECAY_PART = 0.5
CHAT_PART = (0.08, 0.16)  # of the tokens, before and while the rate falls
STEPS, TUNE = 2600, 320
TUNE_RATE, TUNE_CHAT = 0.3, 0.6  # of the last steps, which teach it to answer
DRAFT_WEIGHT = 0.3
DRAFT_PART = 0.25  # of the sequences, for the draft layer's sake
BALANCE_SPEED = 0.01  # falls with the rate
MUON_RATE, ADAM_RATE, DECAY = 0.02, 0.004, 0.01


@fused
def surprise(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy, and its gradient for the logits."""
    logits = logits.float()
    chosen = torch.arange(logits.shape[1]) == wanted.unsqueeze(1)
    shifted = logits - logits.amax(-1, keepdim=True)
    powers = shifted.exp()
    sums = powers.sum(-1, keepdim=True)
    loss = sums.log().sum() - (shifted * chosen).sum()
    return loss, (powers / sums - chosen.float()).bfloat16()


class HeadLoss(torch.autograd.Function):
    """Cross-entropy of a tied head, chunk by chunk, with its gradients made on the way: logits never stand in memory whole."""

    @staticmethod
    def forward(ctx, hidden: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        weight, total = embedding, torch.zeros(())
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros(embedding.shape)
        for start in range(0, len(targets), 1024):
            rows, wanted = hidden[start : start + 1024], targets[start : start + 1024]
            loss, low = surprise(F.linear(rows, weight), wanted)
            total += loss
            to_hidden[start : start + 1024] = low @ weight
            to_weight += low.T @ rows
        ctx.save_for_backward(to_hidden / len(targets), (to_weight / len(targets)).to(embedding.dtype))
        return total / len(targets)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        to_hidden, to_weight = ctx.saved_tensors
        return to_hidden * gradient, to_weight * gradient, None


def windows(tokens: np.ndarray, length: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Pieces of `length` + 1 tokens, all of them once an epoch, cut at another place each time."""
    while True:
        starts = np.arange(rng.integers(length), len(tokens) - length - 1, length)
        for start in rng.permutation(starts):
            yield tokens[start : start + length + 1]


@dataclass(frozen=True)
class Stage:
    """What a step is made of: the length of its sequences, the part of them that are conversations, and the rate."""

    length: int
    chat: float
    rate: float


def stage(step: int, steps: int, tune: int) -> Stage:
    """`steps` of training, then `tune` of tuning."""
    if step >= steps:
        return Stage(LENGTH if step % 4 else LONG_LENGTH, TUNE_CHAT, TUNE_RATE * (1 - (step - steps) / tune))
    progress = step / steps
    length, chat = LONG_LENGTH if progress >= 1 - LONG_PART else LENGTH, CHAT_PART[progress >= 1 - DECAY_PART]
    return Stage(length, chat, min(1.0, (step + 1) / WARM_UP) * min(1.0, (1 - progress) / DECAY_PART))


class Batches:
    """The same for the same seed, wherever it is taken up again. Every worker draws all and keeps its share."""

    def __init__(self, folder: Path, worker: int, workers: int) -> None:
        self.rng = np.random.default_rng(SEED)
        self.worker, self.workers = worker, workers
        self.streams = {}
        for name in ("train", "chat"):
            tokens = np.fromfile(folder / f"{name}.u16", dtype=np.uint16)
            for length in (LENGTH, LONG_LENGTH):
                self.streams[name, length] = windows(tokens, length, np.random.default_rng([SEED, length, len(name)]))

    def next(self, stage: Stage) -> Tensor:
        names = ["chat" if self.rng.random() < stage.chat else "train" for _ in range(TOKENS // stage.length)]
        rows = [next(self.streams[name, stage.length]) for name in names]
        return torch.from_numpy(np.stack(rows[self.worker :: self.workers]).astype(np.int64))


def losses(model: Nano, weights: dict[str, Tensor], batch: Tensor, ops: TrainOps) -> tuple[Tensor, Tensor]:
    """Of the next token, and of the draft's token after it."""
    tokens, targets = batch[:, :-1], batch[:, 1:]
    embedding = weights["model.embed_tokens.weight"]
    normed = hidden_states(ops, DEEPSEEK_V3, model.config, tokens)
    some = max(int(len(batch) * DRAFT_PART), 1)
    drafted = draft(ops, model.config, targets[:some, :-1], normed[:some, :-1])
    main = HeadLoss.apply(normed.flatten(0, 1), embedding, targets.flatten())
    return main, HeadLoss.apply(drafted.flatten(0, 1), embedding, targets[:some, 1:].flatten())


def share(tensors: list[Tensor], workers: int) -> None:
    """The mean over all workers, in place."""
    if workers > 1:
        flat = torch.cat([t.flatten() for t in tensors])
        distributed.all_reduce(flat)
        flat /= workers
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(part.view_as(t))


def train(worker: int, workers: int, folder: Path, steps: int, tune: int, save_seconds: float) -> None:
    torch.set_num_threads(1)
    if workers > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder.resolve()}/meeting", rank=worker, world_size=workers)
    model, batches = Nano(SEED), Batches(folder, worker, workers)
    optimizer = Optimizer(model, MUON_RATE, ADAM_RATE, DECAY)
    parameters = {name: value for name, value in model.weights.items() if isinstance(value, nn.Parameter)}
    checkpoint, log = folder / "checkpoint.pt", Log(folder / "train.log", quiet=worker > 0)
    start, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        start, spent = state["step"], state["seconds"]
        with torch.no_grad():
            for name, value in state["weights"].items():
                model.weights[name].copy_(value)
        optimizer.restore(state["optimizer"])
        for passed in range(start):
            batches.next(stage(passed, steps, tune))
    began = saved = time.monotonic()
    mean = torch.zeros(3)
    count = sum(p.numel() for p in parameters.values())
    log.say(event="start", step=start, steps=steps, tune=tune, parameters=count, tokens_a_step=TOKENS, seed=SEED, workers=workers)
    step = start
    while step < steps + tune:
        now_at = stage(step, steps, tune)
        low = model.low()
        ops = TrainOps(low)
        main, ahead = losses(model, low, batches.next(now_at), ops)
        (main + DRAFT_WEIGHT * ahead).backward()
        gradients = [low[name].grad for name in parameters]
        share(gradients, workers)
        for (_, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            parameter.grad = gradient.float()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step(now_at.rate, momentum=0.85 + 0.1 * min(step / 200, 1.0))
        counts = [*(load.float() for load in ops.load.values()), torch.stack([main.detach(), ahead.detach(), norm])]
        share(counts, workers)
        balance(model, dict(zip(ops.load, counts[:-1], strict=True)), BALANCE_SPEED * now_at.rate)
        mean = counts[-1] if step == start else 0.95 * mean + 0.05 * counts[-1]
        step += 1
        now = time.monotonic()
        if step % 10 == 0 or step == steps + tune:
            log.say(
                step=step,
                loss=round(float(mean[0]), 4),
                draft=round(float(mean[1]), 4),
                norm=round(float(mean[2]), 3),
                rate=round(now_at.rate, 4),
                busiest=round(max(float(load.max() / load.mean()) for load in counts[:-1]), 2),
                seconds=round(spent + now - began, 1),
                tokens_a_second=round((step - start) * TOKENS / (now - began)),
            )
            if (folder / "steps").exists() and step % 50 == 0:
                steps = int((folder / "steps").read_text())
        if worker == 0 and ((step % 50 == 0 and now - saved > save_seconds) or step == steps + tune):
            state = {"step": step, "seconds": spent + now - began, "weights": {k: v.detach() for k, v in model.weights.items()}}
            torch.save({**state, "optimizer": optimizer.state()}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            saved = now
    log.say(event="end", step=step, seconds=round(spent + time.monotonic() - began, 1))


class Log:
    def __init__(self, file: Path, quiet: bool) -> None:
        self.file, self.quiet = file, quiet

    def say(self, **values: object) -> None:
        if not self.quiet:
            print(json.dumps(values), flush=True)
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(values) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/nano"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tune", type=int, default=TUNE, help="steps behind those, mostly of conversations; 0 leaves them out")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each, which share a batch")
    parser.add_argument("--save-seconds", type=float, default=300)
    options = parser.parse_args()
    (options.folder / "meeting").unlink(missing_ok=True)
    arguments = (options.workers, options.folder, options.steps, options.tune, options.save_seconds)
    if options.workers > 1:
        multiprocessing.spawn(train, arguments, nprocs=options.workers)
    else:
        train(0, *arguments)


if __name__ == "__main__":
    main()
