"""Time and peak memory of the levels on wide weights: the 1.46 B shape's own, of some of its layers, int4 in groups of 64.

    python benchmarks/levels.py

Two depths are measured, and their difference is what a layer costs; the whole model's time is reckoned from it. The goal for
memory holds at any depth: 3 times the float32 bytes of the largest single weight, its Hessian, 600 MB, and activations:
here the widest product's inputs, in bfloat16, of the quantized model and of the original beside it.
"""

from __future__ import annotations

from common import DEEPSEEK, arguments, median, run, show
from quantize import SHAPE, large

from deepseek_cli.quantize.algorithms import LEVELS, QAT

LAYERS = int(SHAPE["num_hidden_layers"])
WAYS = {**{name: ("--level", name) for name in LEVELS}, "qat": ("--qat",)}


def goal_mb(way: str) -> float:
    hidden, widest, vocabulary = (int(SHAPE[key]) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    largest = 4 * hidden * max(widest, vocabulary)
    activations = 2 * 2 * (LEVELS | {"qat": QAT})[way].tokens * widest
    return (3 * largest + 4 * widest**2 + activations + 600e6) / 1e6


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--ways", nargs="*", default=["fast", "balanced"], choices=WAYS)
    parser.add_argument("--layers", type=int, nargs=2, default=(2, 4))
    args = parser.parse_args()
    rows = []
    for way in args.ways:
        seconds, peaks = [], []
        for layers in args.layers:
            options = (*WAYS[way], "--group", 64, "--set", "report=false", "--yes", "--force", "-o", args.work / "levels")
            runs = [run(*DEEPSEEK, "quantize", large(args.work, num_hidden_layers=layers), *options) for _ in range(args.rounds)]
            seconds.append(median([r.seconds for r in runs]))
            peaks.append(max(r.peak_mb for r in runs))
        few, more = args.layers
        each = (seconds[1] - seconds[0]) / (more - few)
        whole = (seconds[0] + (LAYERS - few) * each) / 60
        rows.append([way, f"{each:.1f}", f"{whole:.0f}", f"{max(peaks):.0f}", f"{goal_mb(way):.0f}"])
        print(rows[-1], flush=True)
    show(["way", "s a layer", f"minutes for {LAYERS} layers", "peak MB", "goal MB"], rows)


if __name__ == "__main__":
    main()
