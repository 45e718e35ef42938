"""A worker that answers by script, so that what follows from its figures can be told beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PROGRAM = """
import json, sys
script = json.loads({script!r})
settings = json.loads(sys.stdin.readline())
mine = script[settings["ref"]]
ready = {{"name": settings["ref"], "load": 0.1, "kind": "bundle", "bytes": mine.get("bytes", 1)}}
print(json.dumps({{"event": "ready", **ready}}), flush=True)
rounds = 0
for line in sys.stdin:
    do = json.loads(line)["do"]
    rounds += do == "round"
    if rounds > mine.get("dies_after", 10**6):
        raise SystemExit("out of luck")
    values = {{name: samples[(rounds - 1) % len(samples)] for name, samples in mine.get("values", {{}}).items()}}
    answers = {{
        "identify": {{"digest": mine.get("digest")}},
        "warm-up": {{"seconds": [1, 1], "stable": mine.get("stable", True)}},
        "round": {{"values": values, "gaps": {{}}, "missing": {{}}}},
        "about": {{"needs": {{}}, "matrix": None, "missing": {{}}}},
    }}
    print(json.dumps({{"event": do, **answers[do]}}), flush=True)
"""


def boot(script: Mapping[str, Mapping[str, Any]]) -> str:
    """The program, for `arms.BOOT`; `script` says by ref what each worker answers."""
    return PROGRAM.format(script=json.dumps(script))
