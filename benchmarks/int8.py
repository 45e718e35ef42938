"""SmolLM2-135M in int8, weights and activations, beside our own float32 bundle of the same model: speed, memory, accuracy.

    python benchmarks/int8.py [--scheme int8-g32 …]

`deepseek bench` measures all bundles in turns (512 tokens of prompt, 64 new ones at depths 0 and 512), `deepseek eval` each int8
bundle against the model, off its grid (off_grid.py). Each ratio is paired, round by round; the accuracy is that of next tokens,
over the model's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import DEEPSEEK, arguments, run, show
from speed import subject

from deepseek_cli.bench.metrics import paired_ratio

FIRST = "float32"
WINDOWS = 32  # of 256 tokens
WITHOUT_REPORT = ("--set", "report=false")  # the bundle itself is measured below
SHOWN = ("prefill", "decode@0", "decode@512", "rss")
GOALS = ["to reach", "≥ 2.3", "≥ 2.3", "≥ 2.3", "≤ 0.40", "≥ 0.98"]


def bundle(work: Path, model: Path, scheme: str) -> Path:
    """The model's bundle, with its weights in this scheme, activations rounded where they are quantized."""
    folder, source = work / f"{model.name}-{scheme}", model
    if not (folder / "bundle").exists():
        if scheme != FIRST:
            source = folder / "model"
            run(*DEEPSEEK, "quantize", model, "--scheme", scheme, "--algorithm", "rtn", *WITHOUT_REPORT, "-o", source, "--force")
        run(*DEEPSEEK, "deploy", source, "--target", "cpu", "--verify", "structure", "-o", folder / "bundle", "--force")
    return folder / "bundle"


def kept(bundle: Path, model: Path) -> float:
    score = json.loads(run(*DEEPSEEK, "eval", bundle, "--against", model, "--windows", WINDOWS, "--json").out)["report"]
    return float(score["accuracy"] / score["reference_accuracy"])


def ratio(arm: dict[str, Any], first: dict[str, Any], metric: str) -> str:
    found = paired_ratio(arm["metrics"][metric]["samples"], first["metrics"][metric]["samples"])
    return "–" if found is None else f"{found:.2f}"


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--scheme", nargs="+", default=["int8-g32", "int8-channel"])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    model = subject(args.work)
    bundles = {scheme: bundle(args.work, model, scheme) for scheme in (FIRST, *args.scheme)}
    saved = args.work / "int8.json"
    figures = ("--rounds", args.rounds, "--threads", args.threads, "--depth", "0,512", "--save", saved, "--force")
    run(*DEEPSEEK, "bench", *bundles.values(), *figures)
    first, *arms = json.loads(saved.read_text(encoding="utf-8"))["arms"]
    rows: list[list[object]] = [
        [scheme, *(ratio(arm, first, metric) for metric in SHOWN), f"{kept(bundles[scheme], model):.4f}"]
        for scheme, arm in zip(args.scheme, arms, strict=True)
    ]
    show(["over float32", "prefill", "decode at 0", "decode at 512", "resident memory", "accuracy kept"], [GOALS, *rows])


if __name__ == "__main__":
    main()
