"""`compress` against its own predictions. python benchmarks/planner.py [--model MODEL] [--plans 20]"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from common import DEEPSEEK, run, show


def planner(arguments: argparse.Namespace) -> None:
    """Predicted size and divergence of plans spread over all sizes, beside what they came to.

    Divergence is predicted anew for each plan by the ratio that the plans before it came to, as the loop does.
    """
    rows, ratio, measured_sum, predicted_sum = [], 1.0, 0.0, 0.0
    for goal in goals(arguments.model, arguments.plans):
        with tempfile.TemporaryDirectory() as folder:
            said = run(*DEEPSEEK, "compress", arguments.model, "--to-size", f"{goal}B", "-o", Path(folder, "out"), "--json")
        made = next(c for c in json.loads(said.out)["frontier"] if c["measured_bytes"] is not None)
        size = made["measured_bytes"] / made["size_bytes"] - 1
        kl = ratio * made["kl"] / made["measured_kl"] - 1
        rows.append([made["scheme"], goal, f"{size:+.2%}", f"{made['kl']:.4f}", f"{made['measured_kl']:.4f}", f"{kl:+.0%}"])
        measured_sum, predicted_sum = measured_sum + made["measured_kl"], predicted_sum + made["kl"]
        ratio = measured_sum / predicted_sum
    show(["scheme", "goal", "size off by", "predicted KL", "measured KL", "KL off by, corrected"], rows)


def goals(model: str, count: int) -> list[int]:
    """Sizes between the ladder's smallest rung and its 8 bits."""
    said = run(*DEEPSEEK, "compress", model, "--to-size", "1TB", "--dry-run", "--json")
    sizes = [c["size_bytes"] for c in json.loads(said.out)["frontier"]]
    least, most = min(sizes), max(sizes)
    return [least + (most - least) * (i + 1) // (count + 1) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--plans", type=int, default=20)
    arguments = parser.parse_args()
    planner(arguments)


if __name__ == "__main__":
    main()
