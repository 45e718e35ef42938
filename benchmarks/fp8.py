"""FP8 blocks to int4: weights a second and peak memory of the whole process, on a checkpoint of DeepSeek-V3's dimensions.

    python benchmarks/fp8.py --experts 16     # 6 GB of source, 3 GB of result
    python benchmarks/fp8.py                  # 20 GB of source, 11 GB of result: 8 dense layers and one of 256 experts

The values are random and repeat every 32 MiB, which no step of ours can notice. Source and result are dropped from the page cache
before each run. The disk's own rate is read in turns with it, from the same files, 8 MiB at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

from common import DEEPSEEK, Process, arguments, interleave, median, run, show, spread

SHAPE = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "num_hidden_layers": 9, "first_k_dense_replace": 8, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "topk_method": "noaux_tc",
    "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5, "num_attention_heads": 128,
    "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "vocab_size": 129280, "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "hidden_act": "silu", "tie_word_embeddings": False, "num_nextn_predict_layers": 0, "torch_dtype": "bfloat16",
    "bos_token_id": 0, "eos_token_id": 1, "quantization_config": {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
    },
}  # fmt: skip
WRITE = """
import math, sys, torch
from pathlib import Path
from deepseek_cli.architectures.deepseek import DEEPSEEK_V3 as family
from deepseek_cli.fields import Fields, read_json
from deepseek_cli.formats.safetensors import Planned, Writer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
folder = Path(sys.argv[1])
config = family.read_config(Fields(read_json(folder / "config.json"), folder / "config.json"))
torch.manual_seed(0)
source = (torch.randn(1 << 25) * 100).to(torch.float8_e4m3fn).view(torch.uint8)
planned = []
for name, shape in family.weights(config):
    dense = len(shape) == 1 or "embed" in name or name.startswith("lm_head") or name.endswith("mlp.gate.weight")
    planned.append(Planned(name, torch.bfloat16 if dense else torch.float8_e4m3fn, shape))
    if not dense:
        planned.append(Planned(f"{name}_scale_inv", torch.float32, tuple(-(-n // 128) for n in shape)))
with Writer(folder, planned) as writer:
    for part in planned:
        if part.dtype == torch.float32:
            tensor = torch.rand(part.shape) * 1e-4
        elif part.dtype == torch.bfloat16:
            tensor = (torch.randn(1 << 20) * 0.02).bfloat16().repeat(-(-math.prod(part.shape) >> 20) + 1)[:math.prod(part.shape)]
        else:
            tensor = source.repeat(math.prod(part.shape) // len(source) + 1)[:math.prod(part.shape)].view(part.dtype)
        writer.write(part.name, tensor.view(part.shape))
bytes_of = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(bytes_of)}, merges=[]))
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer.save(str(folder / "tokenizer.json"))
print(sum(math.prod(shape) for _, shape in family.weights(config)))
"""
BLOCK = 8 << 20


def checkpoint(work: Path, experts: int) -> tuple[Path, int]:
    """The folder, and how many weights it holds."""
    folder = work / f"fp8-{experts}"
    count = folder / "weights.txt"
    if not count.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**SHAPE, "n_routed_experts": experts}))
        count.write_text(run(sys.executable, "-c", WRITE, folder).out)
    return folder, int(count.read_text())


def forget(folder: Path) -> None:
    """Drop the folder's files from the page cache."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_rate(folder: Path) -> float:
    """Bytes a second of reading all of it from the disk."""
    forget(folder)
    start, total, buffer = time.perf_counter(), 0, bytearray(BLOCK)
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as opened:
            while count := opened.readinto(buffer):
                total += count
    rate = total / (time.perf_counter() - start)
    forget(folder)
    return rate


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__, rounds=1)
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint for another run")
    args = parser.parse_args()
    folder, weights = checkpoint(args.work, args.experts)
    out = args.work / "fp8-int4"
    runs: list[Process] = []

    def quantize() -> float:
        shutil.rmtree(out, ignore_errors=True)
        forget(folder)
        runs.append(run(*DEEPSEEK, "quantize", folder, "--int4", "--algorithm", "rtn", "--set", "report=false", "-o", out))
        return runs[-1].seconds

    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    seen = interleave({"read": lambda: read_rate(folder), "quantize": quantize}, args.rounds)
    rates = [weights / seconds / 1e6 for seconds in seen["quantize"]]
    half = median(seen["read"]) / 2 * weights / size / 1e6
    rows = [
        ["FP8 read, GB", f"{size / 1e9:.1f}", ""],
        ["M weights/s", spread(rates, 0), f"{min(250.0, half):.0f} (250, or half the disk's {2 * half:.0f})"],
        ["the disk's sequential reading, GB/s", spread([rate / 1e9 for rate in seen["read"]]), ""],
        ["seconds", spread(seen["quantize"], 1), ""],
        ["processor time, ns a weight", spread([done.cpu_seconds / weights * 1e9 for done in runs]), "8 on two cores"],
        ["peak MB", spread([done.peak_mb for done in runs], 0), "2500"],
        ["load of the machine", f"{os.getloadavg()[0]:.1f}", ""],
    ]
    show([f"FP8 to int4, {weights / 1e9:.1f} G weights", "", "to reach"], rows)
    shutil.rmtree(out, ignore_errors=True)
    if not args.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
