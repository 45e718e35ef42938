"""A peer, measured as deepseek_cli/bench/worker.py measures us, in its language. Runs under $PEERS/base or $PEERS/ov.

    peer_worker.py llama|genai|openvino SETTINGS          SETTINGS is a JSON object of the runtime's own options

Prefill from an empty cache, then decoding from each depth; `decode` asks for one depth alone, which llama.cpp also times by
another clock of Python's, and the last request, `logits`, is for the KL divergence.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Options = dict[str, Any]


class Llama:
    """One GGUF file through llama.cpp's C interface; random tokens, so that no sampling is timed."""

    distribution = "llama-cpp-python"

    def __init__(self, path: str, context: int, threads: int, own: Options) -> None:
        import llama_cpp as L

        self.L, self.silent = L, L.llama_log_callback(lambda *_: None)
        L.llama_log_set(self.silent, None)
        L.llama_backend_init()
        self.model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
        options = L.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, max(512, context), 512
        options.n_threads = options.n_threads_batch = threads
        self.clock = getattr(time, own.pop("clock", "perf_counter"))
        for name, value in own.items():
            setattr(options, name, value)
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
            start = self.clock()
            self.feed([token])
            gaps.append(self.clock() - start)
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

    distribution = "onnxruntime-genai"

    def __init__(self, path: str, context: int, threads: int, own: Options) -> None:
        import onnxruntime_genai as og

        self.og, self.context = og, context
        config = og.Config(path)
        config.overlay(json.dumps({"model": {"decoder": {"session_options": own}}}))
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


class Openvino:
    """A folder of optimum-intel's through OpenVINO GenAI: greedy; gaps are those between its calls of a streamer."""

    distribution = "openvino-genai"

    def __init__(self, path: str, context: int, threads: int, own: Options) -> None:
        import openvino_genai as og

        self.og, self.path, self.own, self.calls = og, path, own, 0
        self.pipeline = og.LLMPipeline(path, "CPU", **own)
        self.vocabulary = json.loads(Path(path, "config.json").read_text())["vocab_size"]

    def generate(self, tokens: list[int], count: int) -> list[float]:
        """The moments at which tokens came."""
        import numpy as np
        import openvino as ov

        config = self.og.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count
        config.ignore_eos, config.do_sample = True, False
        self.calls += 1  # the pipeline knows a prompt again that it has read, but for another first token
        ids = np.array([[self.calls % self.vocabulary, *tokens[1:]]], np.int64)
        moments: list[float] = []
        running = self.og.StreamingStatus.RUNNING

        class Clock(self.og.StreamerBase):  # type: ignore[name-defined,misc]
            def write(self, token: Any) -> Any:
                moments.extend([time.perf_counter()] * (len(token) if isinstance(token, list) else 1))
                return running

            def end(self) -> None: ...

        self.pipeline.generate(self.og.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids))), config, Clock())
        return moments

    def prefill(self, tokens: list[int]) -> float:
        start = time.perf_counter()
        return self.generate(tokens, 1)[0] - start

    def decode(self, tokens: list[int], count: int) -> list[float]:
        moments = self.generate(tokens or [1], count + 1)  # it cannot start from nothing
        return [after - before for before, after in zip(moments, moments[1:])]  # noqa: B905, RUF007

    def logits(self, tokens: list[int]) -> Any:
        """Of every position, which its pipeline does not give: from the plugin that it runs on, set alike."""
        import numpy as np

        ids, places = np.array([tokens], np.int64), np.arange(len(tokens), dtype=np.int64)[None]
        request = self.compiled().create_infer_request()
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": places,
            "beam_idx": np.zeros(1, np.int32),
        }
        return np.asarray(request.infer(inputs)["logits"], np.float32)[0]

    def compiled(self) -> Any:
        import openvino as ov

        own = {name: value for name, value in self.own.items() if name != "ATTENTION_BACKEND"}  # which is the pipeline's
        return ov.Core().compile_model(Path(self.path, "openvino_model.xml"), "CPU", own)


Peer = Llama | Genai | Openvino
PEERS: dict[str, Callable[..., Peer]] = {"llama": Llama, "genai": Genai, "openvino": Openvino}


def worker(make: Callable[..., Peer], own: Options) -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(event: str, **facts: Any) -> None:
        out.write(json.dumps({"event": event, **facts}) + "\n")
        out.flush()

    settings = json.loads(sys.stdin.readline())
    path = Path(settings["ref"])
    start = time.perf_counter()
    peer = make(str(path), settings["context"] + 8, settings["threads"], own)
    seconds = time.perf_counter() - start
    files = [path] if path.is_file() else list(path.iterdir())
    size = sum(f.stat().st_size for f in files if f.is_file())
    version = f"{peer.distribution} {importlib.metadata.version(peer.distribution)}"
    say("ready", name=settings["name"], kind="peer", bytes=size, quantization={}, load=seconds, version=version)
    draw = random.Random(settings["seed"])
    prompt = [draw.randrange(peer.vocabulary) for _ in range(max(*settings["prompt_tokens"], *settings["depths"]))]
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "first-token":
            say("first-token", seconds=peer.prefill(prompt[: settings["prompt_tokens"][0]]))
        elif request["do"] == "warm-up":
            rounds = [one_round(peer, prompt, settings) for _ in range(2)]
            say("warm-up", seconds=[seconds for _, seconds in rounds], stable=True)
        elif request["do"] == "decode":
            say("decode", gaps=peer.decode(prompt[: request["depth"]], request["count"]))
        elif request["do"] == "logits":
            import numpy as np

            np.save(request["file"], peer.logits(request["tokens"]))
            say("logits")
        else:
            say("round", **one_round(peer, prompt, settings)[0], missing={})


def one_round(peer: Peer, prompt: list[int], settings: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """What deepseek_cli.bench.worker.measure_round answers, and how long it took."""
    began, new, values, all_gaps = time.perf_counter(), settings["new_tokens"][-1], {}, {}
    for count in settings["prompt_tokens"]:
        seconds = peer.prefill(prompt[:count])
        values |= {f"prefill@{count}": count / seconds, f"first_token@{count}": 1000 * seconds}
    for depth in reversed(settings["depths"]):
        gaps = sorted(peer.decode(prompt[:depth], new))
        values[f"decode@{depth}"] = len(gaps) / sum(gaps)
        for percent in (50, 95):
            values[f"gap_p{percent}@{depth}"] = 1000 * gaps[-(-percent * len(gaps) // 100) - 1]
        all_gaps[str(depth)] = gaps
    for name, key in (("peak", "VmHWM"), ("rss", "VmRSS"), ("anonymous", "RssAnon"), ("file", "RssFile")):
        values[name] = status(key)
    return {"values": values, "gaps": all_gaps}, time.perf_counter() - began


def status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    worker(PEERS[sys.argv[1]], json.loads(sys.argv[2]))
