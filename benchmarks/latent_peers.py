"""The stack of latent.py in llama.cpp, whose decoding takes turns with ours. Its file is our own gguf target's: Q4_0, Q8_0 for
the latents' projection, float16 for what is dense. `python benchmarks/latent.py --peers --threads 1 --clock process_time`
compares processor time, which a busy machine disturbs least.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from common import PEER_WORKER, interleave, median, show, spread
from tokenizers.pre_tokenizers import ByteLevel

from deepseek_cli.bench.arms import Arm, ask, started
from deepseek_cli.deploy import gguf
from deepseek_cli.deploy.gguf_metadata import NORMAL
from deepseek_cli.deploy.precision import in_precision
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.handle import ModelHandle
from deepseek_cli.manifest import Manifest
from deepseek_cli.runtime.gguf_tokenizer import build
from deepseek_cli.runtime.onnx_session import OnnxSession

DEPTHS = (0, 512, 2048)
STEPS = 16  # tokens a turn decodes


def written(folder: Path, model: Any, raw: Mapping[str, Any]) -> Path:
    """The stack as one GGUF file, with a tokenizer of bytes and padding behind it."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        symbols = sorted(ByteLevel.alphabet())
        build([*symbols, "ab"], ["a b"], "gpt-2", [NORMAL] * (len(symbols) + 1)).save(str(unfinished / "tokenizer.json"))
        parts = model.architecture, model.config, model.weights, Manifest("stack"), raw
        handle = ModelHandle("stack", "stack", unfinished, *parts)
        record = gguf.emit_bundle(in_precision(handle, "fp16"), DeploySpec(target="gguf"), unfinished, model.config.context)
        print("dense there, of what is quantized:", ", ".join(record["dense_fallbacks"]) or "nothing")
        unfinished.rename(folder)
    return folder / gguf.MODEL


def ours(session: OnnxSession, clock: str, depth: int) -> float:
    """Milliseconds a token, the median of a turn."""
    now, times = getattr(time, clock), []
    for i in range(STEPS):
        session.position = depth + i
        start = now()
        session.feed([7919 * i % session.vocabulary])
        times.append(1e3 * (now() - start))
    return median(times)


def theirs(arm: Arm, depth: int) -> float:
    answer = ask(arm, {"do": "decode", "depth": depth, "count": STEPS})
    if arm.error:
        raise SystemExit(f"llama.cpp failed: {arm.error}")
    return 1e3 * median(answer["gaps"])


def beside(session: OnnxSession, file: Path, threads: int, clock: str, rounds: int) -> None:
    settings = {"ref": str(file), "name": "llama.cpp", "context": DEPTHS[-1] + STEPS, "threads": threads}
    settings |= {"prompt_tokens": [], "depths": DEPTHS, "seed": 0}
    command = [*map(str, PEER_WORKER), "llama", json.dumps({"clock": clock})]
    rows = []
    with started(str(file), settings, command) as arm:
        if arm.error:
            raise SystemExit(f"llama.cpp failed: {arm.error}")
        for depth in DEPTHS:  # deeper and deeper: llama.cpp feeds what is missing, and takes it back no further
            arms = {"ours": partial(ours, session, clock, depth), "llama.cpp": partial(theirs, arm, depth)}
            interleave(arms, 1)
            seen = interleave(arms, rounds)
            ratios = [b / a for a, b in zip(seen["ours"], seen["llama.cpp"], strict=True)]
            rows.append([depth, *(spread(times) for times in seen.values()), spread(ratios), f"{min(ratios):.2f}"])
    show(["depth", "ours, ms a token", "llama.cpp", "ours over it, in speed", "lowest"], rows)
