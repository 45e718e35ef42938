"""Loading a bundle, and what is resident while it decodes, in fresh processes.

    python benchmarks/load.py

Resident memory is to stay under bundle bytes + KV + 160 MB; loading under 0.3 s. The files are in the page cache.
"""

from __future__ import annotations

import json

from common import DEEPSEEK, arguments, median, run, show, spread
from speed import OURS, bundle, subject

ROOM_MB = 160


def main() -> None:
    args = arguments(__doc__, rounds=7).parse_args()
    model, rows = subject(args.work), []
    for name in OURS:
        path = bundle(args.work, model, name)
        runs = [json.loads(run(*DEEPSEEK, "bench", path, "--rounds", 1, "--json").out)["arms"][0] for _ in range(args.rounds)]
        samples = {key: [r["metrics"][key]["median"] for r in runs] for key in ("load", "rss", "peak", "anonymous", "file", "kv")}
        size = runs[0]["bytes"] / 1e6
        limit = size + median(samples["kv"]) + ROOM_MB
        figures = [f"{median(samples[key]):.0f}" for key in ("anonymous", "file", "peak", "kv")]
        rows.append([name, f"{size:.0f}", spread(samples["load"], 3), spread(samples["rss"], 0), *figures, f"{limit:.0f}"])
    show(["bundle", "MB", "load s", "resident MB", "anonymous", "file", "peak", "KV", f"bundle + KV + {ROOM_MB}"], rows)


if __name__ == "__main__":
    main()
