"""Emitting the ONNX graph, whole process, beside torch.onnx.export and onnxruntime-genai's model builder.

    python benchmarks/emit.py

torch.onnx.export needs onnxscript in the peers' environment: $PEERS/base/bin/pip install onnxscript
"""

from __future__ import annotations

import shutil
from pathlib import Path

from common import DEEPSEEK, PEER, arguments, interleave, median, run, show, smollm2, spread

BUNDLE = ("--target", "cpu", "--verify", "structure", "--force")


def main() -> None:
    args = arguments(__doc__, rounds=3).parse_args()
    dense, int4, out = smollm2(args.work), args.work / "emit-int4", args.work / "emit"
    if not int4.exists():
        run(*DEEPSEEK, "quantize", dense, "--scheme", "int4-g32", "--set", "report=false", "-o", int4)

    def deepseek_from_bf16() -> float:
        model = clean(out / "model")
        seconds = run(*DEEPSEEK, "quantize", dense, "--scheme", "int4-g32", "--set", "report=false", "-o", model).seconds
        return seconds + run(*DEEPSEEK, "deploy", model, *BUNDLE, "-o", out / "ours").seconds

    arms = {
        "deepseek deploy, bf16 weights": lambda: run(*DEEPSEEK, "deploy", dense, *BUNDLE, "-o", out / "dense").seconds,
        "torch.onnx.export (dynamo), float32": lambda: run(*PEER, "export", dense, clean(out / "export") / "model.onnx").seconds,
        "deepseek deploy, int4 weights": lambda: run(*DEEPSEEK, "deploy", int4, *BUNDLE, "-o", out / "int4").seconds,
        "deepseek quantize + deploy, int4": deepseek_from_bf16,
        "onnxruntime-genai builder, int4": lambda: run(*PEER, "genai", dense, clean(out / "genai"), 32).seconds,
    }
    out.mkdir(parents=True, exist_ok=True)
    seen = interleave(arms, args.rounds)
    fastest = {"float32": "deepseek deploy, bf16 weights", "int4": "deepseek deploy, int4 weights"}
    rows = []
    for name, seconds in seen.items():
        ours = fastest["float32" if "float32" in name or "bf16" in name else "int4"]
        pairs = [a / b for a, b in zip(seconds, seen[ours], strict=True)]
        rows.append([name, spread(seconds), f"{median(pairs):.1f}", ours])
    show(["emitting SmolLM2-135M", "s", "times as long as", ""], rows)


def clean(folder: Path) -> Path:
    """An empty place: its parent exists, it does not, unless it is a folder to put files into."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.name == "export":
        folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
