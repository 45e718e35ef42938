"""Makes what the machine cache holds of a cpu bundle, in a process of its own: what that takes of memory goes with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli import errors
from deepseek_cli.errors import DeepseekError, ResourceError
from deepseek_cli.fields import read_json
from deepseek_cli.handle import read_config
from deepseek_cli.runtime.machine_cache import MachineCache
from deepseek_cli.runtime.onnx_session import GRAPH, OnnxSession, Rewrite, load, session_options

DATA = f"{GRAPH}.data"
DECODE, PREFILL, BATCH = "decode", "prefill", "batch"
SHARES = {DECODE: 3, PREFILL: 8, BATCH: 8}  # bytes while one is made, over those of the bundle: weights as they are, and packed
INLINE_BYTES = "64"  # shapes must stand in the graph, and scales must not: packed codes are unpacked wrongly then
PROOF = 24  # tokens that must come out the same
# `-P` and this program instead of `-m`: the folder the user stands in must not lend the process its modules.
BOOT = """
import json, sys
request = json.loads(sys.stdin.readline())
sys.path[:] = request["path"]
from deepseek_cli.runtime.packing import main
main(request)
"""


class PrefillSession(OnnxSession):
    """Appends tokens to another session's cache, and gives no logits."""

    def _load(self, path: Path, options: Any, accuracy_level: int | None, rewrite: Rewrite | None) -> Any:
        """Behind a run its threads would poll for another 30 ms, on the cores that the other session decodes with."""
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return super()._load(path, options, accuracy_level, rewrite)

    def append(self, tokens: Sequence[int], position: int) -> None:
        self.position = position
        for start in range(0, len(tokens), self.chunk):
            self._run(tokens[start : start + self.chunk], self.last[:0])


def packed(folder: Path, form: str, cache: MachineCache, at_once: bool = True) -> Path | None:
    """The entry for this form of a bundle, made if need be; None where the bundle should first be used again.

    Raises DiskFull or ResourceError where the cache cannot be written, ModelUnsupported for a bundle without this form.
    """
    size = sum(file.stat().st_size for file in folder.glob(f"{GRAPH}*"))
    return cache.entry(folder, form, SHARES[form] * size, lambda staging: _make_apart(form, folder, staging), at_once)


def _make_apart(form: str, folder: Path, staging: Path) -> None:
    request = {"form": form, "folder": str(folder.absolute()), "staging": str(staging.absolute()), "path": sys.path}
    words = [sys.executable, "-P", "-c", BOOT]
    done = subprocess.run(words, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeepseekError(
            "The process that packs weights failed: {reason}",
            hint="Leave out what it is for: --fast-prefill, packed_cache or batch_int8.",
            reason=(done.stderr.strip().splitlines() or ["it left no message"])[-1],
        )
    if error := json.loads(done.stdout):
        raise getattr(errors, error["kind"])(error["message"], hint=error["hint"], **error["facts"])


def main(request: dict[str, Any]) -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answer
    answer: dict[str, Any] = {}
    try:
        MAKERS[request["form"]](Path(request["folder"]), Path(request["staging"]))
    except DeepseekError as error:
        facts = {name: str(value) for name, value in error.facts.items()}
        answer = {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "facts": facts}
    with out:
        json.dump(answer, out)


def make_decode(folder: Path, staging: Path) -> None:
    _pack(folder / GRAPH, staging)
    config = _config(folder)
    _require_equal(*(OnnxSession(place, config, PROOF).feed(range(PROOF), keep=0) for place in (folder, staging)))


def make_prefill(folder: Path, staging: Path) -> None:
    raw = _pack_int8(folder, staging, head=False)
    config, caches = _config(folder), []
    for place in (raw, staging):
        session = PrefillSession(place, config, PROOF)
        session.append(range(PROOF), 0)
        caches.append(session.cache)
    _require_equal(*caches)
    shutil.rmtree(raw)


def make_batch(folder: Path, staging: Path) -> None:
    raw = _pack_int8(folder, staging, head=True)
    config = _config(folder)
    _require_equal(*(OnnxSession(place, config, PROOF).feed(range(PROOF), keep=0) for place in (raw, staging)))
    shutil.rmtree(raw)


def _pack_int8(folder: Path, staging: Path, *, head: bool) -> Path:
    """Where the form lies unpacked, for comparing."""
    from deepseek_cli.ops.onnx_int8 import write_int8

    raw = staging / "raw"
    raw.mkdir()
    _pack(write_int8(folder / GRAPH, raw, head=head), staging)
    return raw


def _config(folder: Path) -> Any:
    return read_config(folder / "config.json", read_json(folder / "config.json"))[1]


def _require_equal(plain: np.ndarray, packed: np.ndarray) -> None:
    """Raises ResourceError where packed weights do not compute the very same: they must never change an answer."""
    if not np.array_equal(plain, packed):
        raise ResourceError(
            "ONNX Runtime does not give the same from packed weights.",
            hint="Leave out what it is for: --fast-prefill, packed_cache or batch_int8.",
        )


MAKERS: dict[str, Callable[[Path, Path], None]] = {DECODE: make_decode, PREFILL: make_prefill, BATCH: make_batch}


def _pack(graph: Path, folder: Path) -> None:
    """What ONNX Runtime makes of a graph as it loads it: the weights as they were, and as its kernels want them."""
    options = session_options(None)
    options.optimized_model_filepath = str(folder / GRAPH)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", INLINE_BYTES)
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    load(graph, options)
