"""Round-to-nearest int4 of whole models: seconds and peak memory of the whole process.

    python benchmarks/quantize.py             # SmolLM2-135M, beyond importing torch
    python benchmarks/quantize.py --large     # and a 2.9 GB model of Llama shape, beside llama.cpp's convert + quantize

llama.cpp's own converter is not a package; peers.py writes the same GGUF with llama.cpp's gguf package, then calls its quantizer.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from common import DEEPSEEK, PEER, Process, arguments, interleave, median, run, show, smollm2, spread

SHAPE = {  # 1.46 B parameters
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1536, "intermediate_size": 8960,
    "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 102400,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WRITE = """
import json, sys, torch
from safetensors.torch import save_file
shape, out = json.loads(sys.argv[1]), sys.argv[2]
h, m, v, d = (shape[k] for k in ("hidden_size", "intermediate_size", "vocab_size", "head_dim"))
q, kv = shape["num_attention_heads"] * d, shape["num_key_value_heads"] * d
draw = torch.Generator().manual_seed(0)
make = lambda *size: (torch.randn(size, generator=draw) * 0.02).bfloat16()
norm = torch.ones(h, dtype=torch.bfloat16)
halves = [{"model.embed_tokens.weight": make(v, h), "model.norm.weight": norm.clone()}, {}]
for i in range(shape["num_hidden_layers"]):
    part, layer = halves[2 * i >= shape["num_hidden_layers"]], f"model.layers.{i}."
    for name, size in (("q_proj", (q, h)), ("k_proj", (kv, h)), ("v_proj", (kv, h)), ("o_proj", (h, q))):
        part[f"{layer}self_attn.{name}.weight"] = make(*size)
    for name, size in (("gate_proj", (m, h)), ("up_proj", (m, h)), ("down_proj", (h, m))):
        part[f"{layer}mlp.{name}.weight"] = make(*size)
    for name in ("input_layernorm", "post_attention_layernorm"):
        part[f"{layer}{name}.weight"] = norm.clone()
index = {}
for i, part in enumerate(halves):
    file = f"model-{i + 1:05}-of-00002.safetensors"
    save_file(part, f"{out}/{file}", {"format": "pt"})
    index |= dict.fromkeys(part, file)
total = sum(t.nbytes for part in halves for t in part.values())
open(f"{out}/model.safetensors.index.json", "w").write(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))
"""


def large(work: Path, **changes: int) -> Path:
    """Random weights of a real shape, or of one that `changes` make of it, in two shards; the tokenizer is SmolLM2's."""
    shape = SHAPE | changes
    folder = work / "-".join(("llama-1.46b", *(f"{key}-{value}" for key, value in changes.items())))
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        run(sys.executable, "-c", WRITE, json.dumps(shape), folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(smollm2(work) / name, folder)
        (folder / "config.json").write_text(json.dumps(shape, indent=2))
    return folder


def ours(model: Path, out: Path) -> Process:
    shutil.rmtree(out, ignore_errors=True)
    return run(*DEEPSEEK, "quantize", model, "--scheme", "int4-g32", "--algorithm", "rtn", "--set", "report=false", "-o", out)


def theirs(model: Path, out: Path) -> Process:
    """Convert, then quantize: the sum of the seconds, the larger of the peaks."""
    dense, small = out.with_suffix(".bf16.gguf"), out.with_suffix(".q4_0.gguf")
    steps = [run(*PEER, "convert", model, dense), run(*PEER, "quantize", dense, small)]
    for file in (dense, small):
        file.unlink()
    return Process(sum(s.seconds for s in steps), max(s.peak_mb for s in steps), "")


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--large", action="store_true", help="also the 2.9 GB model: 9 GB of disk")
    args = parser.parse_args()
    small, out = smollm2(args.work), args.work / "quantized"
    arms: dict[str, Callable[[], Process]] = {
        "python -c 'import torch'": lambda: run(sys.executable, "-c", "import torch"),
        "deepseek quantize, SmolLM2-135M": lambda: ours(small, out),
        "llama.cpp convert + quantize, SmolLM2-135M": lambda: theirs(small, out),
    }
    if args.large:
        model = large(args.work)
        arms["deepseek quantize, 1.46 B"] = lambda: ours(model, out)
        arms["llama.cpp convert + quantize, 1.46 B"] = lambda: theirs(model, out)
    seen = interleave(arms, args.rounds)
    bare = seen["python -c 'import torch'"]
    rows = []
    for name, runs in seen.items():
        beyond = median([r.seconds - b.seconds for r, b in zip(runs, bare, strict=True)])
        room = median([r.peak_mb - b.peak_mb for r, b in zip(runs, bare, strict=True)])
        rows.append(
            [name, spread([r.seconds for r in runs]), f"{beyond:.2f}", spread([r.peak_mb for r in runs], 0), f"{room:.0f}"]
        )
    show(["whole process", "s", "s beyond torch", "peak MB", "MB beyond torch"], rows)


if __name__ == "__main__":
    main()
