"""A model of 12 GB to 3.2 GB by `compress`: time, and peak memory of the whole process; 19 GB of disk.

    python benchmarks/shrink.py [--level fast | --algorithm rtn]

Llama's shape, 6.1 B parameters, untied, in bf16. Values are random and repeat every 2 MiB, which no step of ours can notice.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from common import DEEPSEEK, arguments, run, show, smollm2

SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 28, "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 49152,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WRITE = """
import math, sys, torch
from pathlib import Path
from deepseek_cli.architectures.llama import LLAMA as family
from deepseek_cli.fields import Fields, read_json
from deepseek_cli.formats.safetensors import Planned, Writer
folder = Path(sys.argv[1])
config = family.read_config(Fields(read_json(folder / "config.json"), folder / "config.json"))
torch.manual_seed(0)
source = (torch.randn(1 << 20) * 0.02).bfloat16()
planned = [Planned(name, torch.bfloat16, shape) for name, shape in family.weights(config)]
with Writer(folder, planned) as writer:
    for part in planned:
        values = math.prod(part.shape)
        tensor = torch.ones(values).bfloat16() if len(part.shape) == 1 else source.repeat(-(-values >> 20) + 1)[:values]
        writer.write(part.name, tensor.view(part.shape))
"""
TO = "3.2GB"
MOST_MB = 3000


def checkpoint(work: Path) -> Path:
    folder = work / "llama-12gb"
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(SHAPE, indent=2))
        run(sys.executable, "-c", WRITE, folder)
        for name in ("tokenizer_config.json", "tokenizer.json"):
            shutil.copy(smollm2(work) / name, folder)
    return folder


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--level", default="fast", choices=["fast", "balanced", "best"])
    parser.add_argument("--algorithm", help="instead of the level's")
    parser.add_argument("--keep", action="store_true", help="leave the model for another run")
    args = parser.parse_args()
    folder, out = checkpoint(args.work), args.work / "llama-12gb-compressed"
    way = ("--set", f"algorithm={args.algorithm}") if args.algorithm else ()
    options = ("--to-size", TO, "--level", args.level, *way, "--time", "1h", "--force", "--json", "-o", out)
    try:
        done = run(*DEEPSEEK, "compress", folder, *options)
    finally:
        before = sum(file.stat().st_size for file in folder.iterdir())
        for place in (out, Path(f"{out}.work"), *([] if args.keep else [folder])):
            shutil.rmtree(place, ignore_errors=True)
    said = json.loads(done.out)
    rows = [
        ["model, GB", f"{before / 1e9:.2f}", ""],
        ["result, GB", f"{said['bytes'] / 1e9:.3f}", TO],
        ["peak MB", f"{done.peak_mb:.0f}", str(MOST_MB)],
        ["minutes", f"{done.seconds / 60:.1f}", ""],
        ["processor minutes", f"{done.cpu_seconds / 60:.1f}", ""],
        ["load of the machine", f"{os.getloadavg()[0]:.1f}", ""],
    ]
    show([f"compress, {args.algorithm or args.level}", "", "to reach"], rows)


if __name__ == "__main__":
    main()
