"""The peers' artefacts, made by their own tools. Runs under $PEERS/base/bin/python.

peers.py convert MODEL OUT.gguf             a bf16 folder as GGUF, as llama.cpp's converter lays it out (needs gguf, torch)
peers.py quantize IN.gguf OUT.gguf [TYPE [EMBEDDING]]    llama.cpp's own quantizer: Q4_0, or another; a tensor type such as Q4_0
                                            for embedding and head, which it would give more bits by itself
peers.py genai MODEL OUT int4|fp32          onnxruntime-genai's model builder; int4 in groups of 32
peers.py export MODEL OUT.onnx              torch.onnx.export of the transformers model (needs onnxscript)
"""

from __future__ import annotations

import json
import os
import sys
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


def quantize(source: str, out: str, kind: str = "Q4_0", embedding: str = "") -> None:
    import llama_cpp as L

    silent = L.llama_log_callback(lambda *_: None)
    L.llama_log_set(silent, None)
    options = L.llama_model_quantize_default_params()
    options.ftype, options.nthread = getattr(L, f"LLAMA_FTYPE_MOSTLY_{kind}"), os.cpu_count() or 1
    if embedding:
        options.output_tensor_type = options.token_embedding_type = getattr(L, f"GGML_TYPE_{embedding}")
    if L.llama_model_quantize(source.encode(), out.encode(), options):
        raise SystemExit("llama_model_quantize failed")


# onnxruntime-genai


def genai(model: str, out: str, precision: str) -> None:
    import runpy

    extra = ["--extra_options", "int4_accuracy_level=4", "int4_block_size=32"] if precision == "int4" else []
    sys.argv = ["builder", "-m", "x", "-i", model, "-o", out, "-p", precision, "-e", "cpu", "-c", f"{out}.cache", *extra]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")


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


if __name__ == "__main__":
    verbs = {"convert": convert, "quantize": quantize, "genai": genai, "export": export}
    verbs[sys.argv[1]](*sys.argv[2:])
