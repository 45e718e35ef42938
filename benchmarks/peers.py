"""The peers: their artefacts, made by their own tools, and workers that measure them. Runs under $PEERS/base/bin/python.

    peers.py convert MODEL OUT.gguf             a bf16 folder as GGUF, as llama.cpp's converter lays it out (needs gguf, torch)
    peers.py quantize IN.gguf OUT.gguf          llama.cpp's own quantizer, Q4_0
    peers.py genai MODEL OUT int4|fp32          onnxruntime-genai's model builder; int4 in groups of 32
    peers.py export MODEL OUT.onnx              torch.onnx.export of the transformers model (needs onnxscript)
    peers.py llama|genai-default|genai-threads  a worker: it speaks the language of deepseek_cli/bench/worker.py

A worker measures what ours measures: prefill from an empty cache, then decoding from each depth.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

BLOCKS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


# llama.cpp


def convert(model: str, out: str) -> None:
    """Tensor by tensor, bf16 as it is, norms in float32."""
    import torch
    from gguf import GGMLQuantizationType, GGUFWriter
    from safetensors import safe_open

    config = json.loads(Path(model, "config.json").read_text())
    writer = GGUFWriter(out, "llama", use_temp_file=False)
    write_metadata(writer, config, Path(model))
    files = [safe_open(path, "pt") for path in sorted(Path(model).glob("*.safetensors"))]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for passes in ("describe", "write"):
        for file in files:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                target, part = gguf_name(name)
                if part in ("attn_q", "attn_k"):  # GGUF's llama keeps rotary pairs side by side
                    n = heads if part == "attn_q" else kv_heads
                    tensor = tensor.reshape(n, 2, tensor.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(tensor.shape)
                wide = tensor.ndim == 1
                array = tensor.float().numpy() if wide else tensor.contiguous().view(torch.int16).numpy()
                kind = GGMLQuantizationType.F32 if wide else GGMLQuantizationType.BF16
                if passes == "describe":
                    seen = array if wide else array.view("uint8")  # the writer takes other kinds as bytes
                    writer.add_tensor_info(target, seen.shape, seen.dtype, array.nbytes, kind)
                else:
                    writer.write_tensor_data(array)
        if passes == "describe":
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
    writer.close()


def gguf_name(name: str) -> tuple[str, str]:
    if name in OUTER:
        return OUTER[name], ""
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    part = BLOCKS[rest.removesuffix(".weight")]
    return f"blk.{layer}.{part}.weight", part


def write_metadata(writer: Any, config: dict[str, Any], folder: Path) -> None:
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta", 10000.0)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_freq_base(rope)
    writer.add_vocab_size(config["vocab_size"])
    tokenizer = json.loads(Path(folder, "tokenizer.json").read_text())["model"]
    tokens = {i: token for token, i in tokenizer["vocab"].items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([tokens.get(i, f"<unused{i}>") for i in range(config["vocab_size"])])
    writer.add_token_types([1] * config["vocab_size"])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def quantize(source: str, out: str) -> None:
    import llama_cpp as L

    silence(L)
    options = L.llama_model_quantize_default_params()
    options.ftype, options.nthread = L.LLAMA_FTYPE_MOSTLY_Q4_0, os.cpu_count() or 1
    if L.llama_model_quantize(source.encode(), out.encode(), options):
        raise SystemExit("llama_model_quantize failed")


def silence(L: Any) -> None:
    silence.kept = L.llama_log_callback(lambda *_: None)  # type: ignore[attr-defined]
    L.llama_log_set(silence.kept, None)  # type: ignore[attr-defined]


class Llama:
    """One GGUF file through llama.cpp's C interface; random tokens, so that no sampling is timed."""

    name = "llama.cpp"

    def __init__(self, path: str, context: int, threads: int) -> None:
        import llama_cpp as L

        silence(L)
        self.L = L
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


# onnxruntime-genai


def genai(model: str, out: str, precision: str) -> None:
    import runpy

    extra = ["--extra_options", "int4_accuracy_level=4", "int4_block_size=32"] if precision == "int4" else []
    sys.argv = ["builder", "-m", "x", "-i", model, "-o", out, "-p", precision, "-e", "cpu", "-c", f"{out}.cache", *extra]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")


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


# torch.onnx.export


def export(model: str, out: str) -> None:
    """The float32 model, logits of every position, no cache: the least that this exporter can be asked for."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    loaded.config.use_cache = False
    ids = torch.ones(1, 16, dtype=torch.long)
    shapes = {"input_ids": {1: torch.export.Dim("length", min=2, max=2048)}}
    torch.onnx.export(loaded, (), out, kwargs={"input_ids": ids}, dynamo=True, dynamic_shapes=shapes, external_data=True)


# the worker


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
    verbs = {"convert": convert, "quantize": quantize, "genai": genai, "export": export}
    workers = {"llama": (Llama, True), "genai-default": (Genai, False), "genai-threads": (Genai, True)}
    if sys.argv[1] in workers:
        worker(*workers[sys.argv[1]])
    else:
        verbs[sys.argv[1]](*sys.argv[2:])
