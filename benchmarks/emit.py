"""Emitting the ONNX graph, whole process, beside torch.onnx.export and onnxruntime-genai's model builder.

    python benchmarks/emit.py
    python benchmarks/emit.py --large         # the 1.46 B-parameter Llama shape of quantize.py, without torch.onnx.export

The float32 rows only emit. At int4 the builder quantizes too, so our quantize + deploy stands beside deploy alone.
torch.onnx.export needs onnxscript in the peers' environment: $PEERS/base/bin/pip install --no-deps onnxscript
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from common import DEEPSEEK, PEER, Process, arguments, interleave, median, run, show, smollm2, spread
from quantize import large

INT4 = ("--scheme", "int4-g32", "--algorithm", "rtn", "--set", "report=false")


def clean(folder: Path) -> Path:
    """A path where nothing is, in a folder that is."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def quantize(model: Path, out: Path) -> Process:
    return run(*DEEPSEEK, "quantize", model, *INT4, "-o", clean(out))


def deploy(model: Path, out: Path) -> Process:
    return run(*DEEPSEEK, "deploy", model, "--target", "cpu", "--verify", "structure", "-o", clean(out))


def both(first: Process, second: Process) -> Process:
    return Process(first.seconds + second.seconds, max(first.peak_mb, second.peak_mb), "")


def export(model: Path, out: Path) -> Process:
    clean(out).mkdir()
    return run(*PEER, "export", model, out / "model.onnx")


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--large", action="store_true", help="the 1.46 B shape: 15 GB of disk")
    args = parser.parse_args()
    dense, out = large(args.work) if args.large else smollm2(args.work), args.work / "emit"
    int4 = args.work / f"{dense.name}-int4"
    if not int4.exists():
        quantize(dense, int4)
    arms: dict[str, Callable[[], Process]] = {
        "float32: deepseek deploy": lambda: deploy(dense, out / "dense"),
        "float32: torch.onnx.export (dynamo)": lambda: export(dense, out / "export"),
        "float32: onnxruntime-genai builder": lambda: run(*PEER, "genai", dense, clean(out / "genai-fp32"), "fp32"),
        "int4: deepseek deploy": lambda: deploy(int4, out / "int4"),
        "int4: deepseek quantize + deploy": lambda: both(quantize(dense, out / "model"), deploy(out / "model", out / "bundle")),
        "int4: onnxruntime-genai builder": lambda: run(*PEER, "genai", dense, clean(out / "genai"), "int4"),
    }
    if args.large:
        del arms["float32: torch.onnx.export (dynamo)"]
    seen = interleave(arms, args.rounds)
    rows = []
    for name, runs in seen.items():
        ours = seen[f"{name.partition(':')[0]}: deepseek deploy"]
        times = median([a.seconds / b.seconds for a, b in zip(runs, ours, strict=True)])
        rows.append([name, spread([r.seconds for r in runs]), f"{times:.1f}", spread([r.peak_mb for r in runs], 0)])
    show([f"emitting {dense.name}", "s", "times our deploy", "peak MB"], rows)
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
