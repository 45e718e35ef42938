"""What deploying costs beside copying the bundle's own bytes, for every target, on a model of 1.46 B parameters in int4.

    python benchmarks/deploy.py

Whole processes, down to the disk: copy and bundle are both synced. What a process takes for a model with next to no weights
is taken off: that is starting, and importing the runtime. Verified by structure alone. Goals: 1.3 times the copy, 1.5 GB.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

from common import DEEPSEEK, Process, arguments, interleave, median, run, show
from quantize import large

from deepseek_cli.deploy import TARGETS

TINY = {"num_hidden_layers": 1, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 2, "vocab_size": 49152}
POSITIVE = ("tensorrt", "mobile")  # whose runtimes take no negative scales
SYNC = "import os, shutil, sys; shutil.copytree(*sys.argv[1:]); os.sync()"


def quantized(work: Path, model: Path, scheme: str) -> Path:
    folder = work / f"{model.name}-{scheme}"
    if not folder.exists():
        run(*DEEPSEEK, "quantize", model, "--scheme", scheme, "--algorithm", "rtn", "--set", "report=false", "-o", folder)
    return folder


def deploy(model: Path, target: str, output: Path) -> Process:
    options = ("--target", target, "--verify", "structure", "--context", 1024, "-o", output, "--force")
    return run("sh", "-c", '"$@" && sync', "sh", *DEEPSEEK, "deploy", model, *options)


def copy(bundle: Path, output: Path) -> Process:
    shutil.rmtree(output, ignore_errors=True)
    return run(sys.executable, "-c", SYNC, bundle, output)


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--targets", nargs="*", default=[*TARGETS])
    args = parser.parse_args()
    model, tiny, rows = large(args.work), large(args.work, **TINY), []
    scratch = args.work / "deployed"
    for target in args.targets:
        scheme = "int4-g128-pos" if target in POSITIVE else "int4-g64"
        big, small = (quantized(args.work, of, scheme) for of in (model, tiny))
        deploy(big, target, scratch / target)
        size = sum(f.stat().st_size for f in (scratch / target).rglob("*") if f.is_file())
        arms = {
            "deploy": partial(deploy, big, target, scratch / target),
            "start": partial(deploy, small, target, scratch / "tiny"),
            "copy": partial(copy, scratch / target, scratch / "copy"),
        }
        seen = interleave(arms, args.rounds)
        whole, start, copied = (median([p.seconds for p in seen[name]]) for name in arms)
        peak = median([p.peak_mb for p in seen["deploy"]])
        ratio = (whole - start) / copied
        rows.append([target, f"{size / 1e6:.0f}", f"{whole:.1f}", f"{start:.1f}", f"{copied:.1f}", f"{ratio:.2f}", f"{peak:.0f}"])
        print(rows[-1], flush=True)
        shutil.rmtree(scratch)
    show(["target", "MB", "deploy s", "start s", "copy s", "(deploy - start) / copy", "peak MB"], rows)


if __name__ == "__main__":
    main()
