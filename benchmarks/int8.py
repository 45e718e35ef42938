"""SmolLM2-135M in int8, weights and activations, beside our own float32 bundle of the same model: speed, memory, accuracy.

    python benchmarks/int8.py [--arms "int8-channel by token" …]

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

from deepseek_cli.bench.statistics import paired_ratio

FIRST = "float32"
BY_TOKEN = ("--set", "rounds_tokens=true")
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {  # name → scheme, and deploy's options
    "int8-g32": ("int8-g32", ()),
    "int8-channel": ("int8-channel", ()),
    "int8-channel by token": ("int8-channel", BY_TOKEN),
}
WINDOWS = 32  # of 256 tokens
WITHOUT_REPORT = ("--set", "report=false")  # the bundle itself is measured below
SHOWN = ("prefill@512", "decode@0", "decode@512", "rss")
GOALS = ["to reach", "≥ 2.3", "≥ 2.3", "≥ 2.3", "≤ 0.40", "≥ 0.98"]


def float_bundle(work: Path, model: Path) -> Path:
    return deployed(model, work / f"{model.name}-{FIRST}" / "bundle")


def bundle(work: Path, model: Path, name: str) -> Path:
    """The model's weights in int8, activations rounded where they are multiplied."""
    scheme, options = ARMS[name]
    small = work / f"{model.name}-{scheme}" / "model"
    if not small.exists():
        run(*DEEPSEEK, "quantize", model, "--scheme", scheme, "--algorithm", "rtn", *WITHOUT_REPORT, "-o", small)
    return deployed(small, small.with_name("-".join(("bundle", *name.split()[1:]))), *options)


def deployed(model: Path, out: Path, *options: str) -> Path:
    if not out.exists():
        run(*DEEPSEEK, "deploy", model, "--target", "cpu", *options, "--verify", "structure", "-o", out)
    return out


def kept(bundle: Path, model: Path) -> float:
    score = json.loads(run(*DEEPSEEK, "eval", bundle, "--against", model, "--windows", WINDOWS, "--json").out)["report"]
    return float(score["accuracy"] / score["reference_accuracy"])


def ratio(arm: dict[str, Any], first: dict[str, Any], metric: str) -> str:
    found = paired_ratio(arm["metrics"][metric]["samples"], first["metrics"][metric]["samples"])
    return "–" if found is None else f"{found['median']:.2f}"


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    model = subject(args.work)
    bundles = {name: bundle(args.work, model, name) for name in args.arms}
    saved = args.work / "int8.json"
    figures = ("--rounds", args.rounds, "--threads", args.threads, "--depth", "0,512", "--save", saved, "--force")
    run(*DEEPSEEK, "bench", float_bundle(args.work, model), *bundles.values(), *figures)
    first, *arms = json.loads(saved.read_text(encoding="utf-8"))["arms"]
    rows: list[list[object]] = [
        [name, *(ratio(arm, first, metric) for metric in SHOWN), f"{kept(bundles[name], model):.4f}"]
        for name, arm in zip(bundles, arms, strict=True)
    ]
    show(["over float32", "prefill", "decode at 0", "decode at 512", "resident memory", "accuracy kept"], [GOALS, *rows])


if __name__ == "__main__":
    main()
