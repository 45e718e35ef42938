"""A peer, measured as deepseek_cli/bench/worker.py measures us, in its language. Runs under $PEERS/base/bin/python.

    peer_worker.py llama | genai-default | genai-threads

Prefill from an empty cache, then decoding from each depth; the last request, `logits`, is for the KL divergence.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any


class Llama:
    """One GGUF file through llama.cpp's C interface; random tokens, so that no sampling is timed."""

    name = "llama.cpp"

    def __init__(self, path: str, context: int, threads: int) -> None:
        import llama_cpp as L

        self.L, self.silent = L, L.llama_log_callback(lambda *_: None)
        L.llama_log_set(self.silent, None)
        L.llama_backend_init()
        self.model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
        options = L.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, max(512, context), 512
        options.n_threads = options.n_threads_batch = threads
        self.context = L.llama_init_from_model(self.model, options)
        self.memory = L.llama_get_memory(self.context)
        self.vocabulary = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.model))
        self.position = 0

    def feed(self, tokens: list[int]) -> None:
        ids = (self.L.llama_token * len(tokens))(*tokens)  # kept alive: the batch only points at it
        if self.L.llama_decode(self.context, self.L.llama_batch_get_one(ids, len(tokens))):
            raise SystemExit("llama_decode failed")
        self.L.llama_synchronize(self.context)
        self.position += len(tokens)

    def prefill(self, tokens: list[int]) -> float:
        """Seconds of feeding tokens into an empty cache."""
        self.rewind(0)
        start = time.perf_counter()
        self.feed(tokens)
        return time.perf_counter() - start

    def decode(self, tokens: list[int], count: int) -> list[float]:
        """Gaps of `count` steps on a cache that holds `tokens`."""
        if self.position < len(tokens):
            self.feed(tokens[self.position :])
        self.rewind(len(tokens))
        gaps = []
        for i in range(count):
            token = (7919 * i) % self.vocabulary
            start = time.perf_counter()
            self.feed([token])
            gaps.append(time.perf_counter() - start)
        return gaps

    def rewind(self, position: int) -> None:
        self.L.llama_memory_seq_rm(self.memory, 0, position, -1)
        self.position = position

    def logits(self, tokens: list[int]) -> Any:
        """float32 [tokens, vocabulary]"""
        import numpy as np

        self.rewind(0)
        batch = self.L.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        if self.L.llama_decode(self.context, batch):
            raise SystemExit("llama_decode failed")
        found = np.ctypeslib.as_array(self.L.llama_get_logits(self.context), (len(tokens), self.vocabulary)).copy()
        self.L.llama_batch_free(batch)
        return found


class Genai:
    """A folder of its model builder through its own generator: greedy, its sampling is timed with it."""

    name = "onnxruntime-genai"

    def __init__(self, path: str, context: int, threads: int) -> None:
        import onnxruntime_genai as og

        self.og, self.context = og, context
        config = og.Config(path)
        if threads:
            config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self.model = og.Model(config)
        self.vocabulary = json.loads(Path(path, "genai_config.json").read_text())["model"]["vocab_size"]

    def generator(self) -> Any:
        options = self.og.GeneratorParams(self.model)
        options.set_search_options(max_length=self.context, min_length=self.context, do_sample=False)
        return self.og.Generator(self.model, options)

    def prefill(self, tokens: list[int]) -> float:
        import numpy as np

        generator, ids = self.generator(), np.array(tokens, np.int32)
        start = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        return time.perf_counter() - start

    def decode(self, tokens: list[int], count: int) -> list[float]:
        import numpy as np

        generator = self.generator()
        generator.append_tokens(np.array(tokens or [1], np.int32))  # it cannot start from nothing
        generator.generate_next_token()
        gaps = []
        for _ in range(count):
            start = time.perf_counter()
            generator.generate_next_token()
            gaps.append(time.perf_counter() - start)
        return gaps

    def logits(self, tokens: list[int]) -> Any:
        import numpy as np

        generator = self.generator()
        generator.append_tokens(np.array(tokens, np.int32))
        return np.asarray(generator.get_output("logits"), np.float32)[0]


def worker(kind: type[Llama] | type[Genai], set_threads: bool) -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(event: str, **facts: Any) -> None:
        out.write(json.dumps({"event": event, **facts}) + "\n")
        out.flush()

    settings = json.loads(sys.stdin.readline())
    path = Path(settings["ref"])
    start = time.perf_counter()
    peer = kind(str(path), settings["context"] + 8, settings["threads"] if set_threads else 0)
    seconds = time.perf_counter() - start
    files = [path] if path.is_file() else list(path.iterdir())
    size = sum(f.stat().st_size for f in files if f.is_file())
    say("ready", name=settings["name"], kind="peer", bytes=size, quantization={}, load=seconds)
    draw = random.Random(settings["seed"])
    prompt = [draw.randrange(peer.vocabulary) for _ in range(max(settings["prompt_tokens"], *settings["depths"]))]
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "warm-up":
            rounds = [one_round(peer, prompt, settings) for _ in range(2)]
            say("warmed", seconds=[r["first_token"] / 1000 for r in rounds], stable=True)
        elif request["do"] == "logits":
            import numpy as np

            np.save(request["file"], peer.logits(request["tokens"]))
            say("logits")
        else:
            say("round", values=one_round(peer, prompt, settings), missing={})


def one_round(peer: Llama | Genai, prompt: list[int], settings: dict[str, Any]) -> dict[str, float]:
    count, new = settings["prompt_tokens"], settings["new_tokens"]
    seconds = peer.prefill(prompt[:count])
    values = {"prefill": count / seconds, "first_token": 1000 * seconds}
    for depth in reversed(settings["depths"]):
        gaps = peer.decode(prompt[:depth], new)
        values[f"decode@{depth}"] = len(gaps) / sum(gaps)
        values[f"gap_p95@{depth}"] = 1000 * sorted(gaps)[-(-19 * len(gaps) // 20) - 1]
    for name, key in (("peak", "VmHWM"), ("rss", "VmRSS")):
        values[name] = status(key)
    return values


def status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    workers = {"llama": (Llama, True), "genai-default": (Genai, False), "genai-threads": (Genai, True)}
    worker(*workers[sys.argv[1]])
