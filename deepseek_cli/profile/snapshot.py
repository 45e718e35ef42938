"""A recorded snapshot of torch's accelerator allocator as a report: `torch.cuda.memory._dump_snapshot("x.pickle")`, or its JSON.

A pickle may come from anyone. A process of its own reads it: nothing that a pickle names is looked up, its memory is bounded by
the file's size, and it starts, opens and writes nothing. All that comes back is one row of figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from deepseek_cli.errors import UsageError
from deepseek_cli.profile.accelerator import Row, row_of

SCHEMA = "deepseek.profile/2"
PICKLES = (".pickle", ".pkl")
TIMES_FILE, ROOM = 40, 1 << 30  # of memory: what a pickle's shortest objects grow to, and the process itself
WRONG = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    EOFError,
    RecursionError,
    MemoryError,
    pickle.UnpicklingError,
)
# `-P` and these lines instead of `-m`: the folder the user stands in must not lend the child its modules.
BOOT = """
import json, sys
request = json.load(sys.stdin)
sys.path[:] = request["path"]
from deepseek_cli.profile.snapshot import main
main(request)
"""


class PlainUnpickler(pickle.Unpickler):
    """Numbers, texts, lists and dicts only."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, identity: Any) -> NoReturn:
        raise pickle.UnpicklingError("a persistent object")


def is_snapshot(path: Path) -> bool:
    return path.suffix in (*PICKLES, ".json") and path.is_file()


def read_snapshot(path: Path) -> Row:
    """Raises UsageError for a file that cannot be read or is no such snapshot."""
    try:
        return _pickled(path) if path.suffix in PICKLES else row_of(json.loads(path.read_bytes()))
    except OSError as error:
        raise UsageError("{file} cannot be read: {reason}.", hint="Check the path.", file=path, reason=error.strerror) from None
    except WRONG:
        raise UsageError(
            "{file} is not a memory snapshot.", hint="Write one with: torch.cuda.memory._dump_snapshot(file)", file=path
        ) from None


def _pickled(path: Path) -> Row:
    request = {"file": str(path.resolve()), "size": path.stat().st_size, "path": sys.path}
    done = subprocess.run(
        [sys.executable, "-P", "-c", BOOT], input=json.dumps(request).encode(), capture_output=True, check=False
    )
    row: Row | None = json.loads(done.stdout or "null")  # a process that was ended for its memory says nothing
    if row is None:
        raise ValueError
    return row


def main(request: dict[str, Any]) -> None:
    from deepseek_cli.formats.pickles import confine

    limit_memory(TIMES_FILE * request["size"] + ROOM)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answer
    confine(Path(request["file"]))  # which is no folder, so that nothing lies in it
    row = None
    with contextlib.suppress(*WRONG), Path(request["file"]).open("rb") as file:
        row = row_of(PlainUnpickler(file).load())
    with out:
        json.dump(row, out)


def limit_memory(size: int) -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def document(path: Path, command: str) -> dict[str, Any]:
    """One moment: what the allocator held, in tensors and beside them."""
    row = read_snapshot(path)
    parts = {"device_tensors": row["allocated_bytes"], "device_unused": row["reserved_bytes"] - row["allocated_bytes"]}
    held = [*({"part": part, "bytes": size} for part, size in parts.items()), {"part": "unattributed", "bytes": 0}]
    empty: dict[str, Any] = dict.fromkeys(("failed", "estimate", "kv", "what_if", "traced", "arena", "leak", "overhead"))
    rows: dict[str, Any] = {
        key: [] for key in ("phases", "weights", "tensors", "layers", "operators", "layer_operators", "nodes", "advice")
    }
    return {
        "schema": SCHEMA,
        "model": {"ref": str(path), "name": path.name, "kind": "snapshot", "runtime": "PyTorch", "architecture": "", "layers": 0}
        | {"parameters": None, "active_parameters": None, "size_bytes": 0, "longest_context": None},
        "run": {"command": command, "prompt_tokens": None, "new_tokens": None, "threads": None, "device": ""}
        | {"sample_ms": None, "when": datetime.now(UTC).isoformat(timespec="seconds")},
        "machine": {},  # it may have been another one
        "peak": {"phase": "snapshot", "bytes": row["reserved_bytes"]},
        "moments": [{"moment": "snapshot", "phase": "snapshot", "bytes": row["reserved_bytes"], "parts": held}],
        "allocator": [row],
        "timeline": {"period_ms": 0, "samples": 0, "points": []},
        **empty,
        **rows,
    }
