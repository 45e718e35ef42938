"""A session over a web bundle: ONNX Runtime's WebAssembly in a process of Node, as a browser would run it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.fields import read_json
from deepseek_cli.runtime.node_packages import RUNTIME, node, package
from deepseek_cli.runtime.session import check_room, in_chunks

SCRIPT = Path(__file__).with_name("web_session.mjs")
# Of onnxruntime-web, its WebAssembly without WebGPU: the build with it, which pages load, takes Node half a minute to start
MODULE = Path("dist") / "ort.node.min.mjs"
CHUNK = 128  # tokens of a prefill that are computed at once
MOST_THREADS = 4  # as many as browsers give a page


def open_folder(folder: Path, config: Any, context: int, threads: int | None, exact: bool) -> WebSession:
    """What runs a web bundle, which rounds no activations, `exact` or not."""
    return WebSession(folder, config, context, threads)


def graph_files(folder: Path) -> tuple[Path, list[Path]]:
    """A bundle's graph and its data, by the names that transformers.js makes of what config.json says.

    Raises ModelCorrupt where that is no name and count.
    """
    settings = read_json(folder / "config.json").get("transformers.js_config")
    files = settings.get("use_external_data_format") if isinstance(settings, dict) else None
    name, count = next(iter(files.items())) if isinstance(files, dict) and files else ("", 0)
    if Path(name).suffix != ".onnx" or Path(name).name != name or not isinstance(count, int):
        raise ModelCorrupt(
            "{file} names no graph and its number of data files.", hint="Deploy the model again.", file=folder / "config.json"
        )
    graph = folder / "onnx" / name
    return graph, [graph.with_name(f"{name}_data{f'_{i}' if i else ''}") for i in range(count)]


class WebSession:
    """`context` is cut to the positions that the bundle has rotary tables for."""

    def __init__(self, folder: Path, config: Any, context: int, threads: int | None = None) -> None:
        graph, data = graph_files(folder)
        held = {entry.key: entry.value for entry in onnx.load(graph, load_external_data=False).metadata_props}
        self.context, self.position, self.vocabulary = min(context, int(held.get("context", context))), 0, config.vocabulary
        self.token_bytes = config.layers * 2 * config.kv_heads * config.head_dim * np.dtype(np.float32).itemsize
        said = {
            "library": str(package(RUNTIME) / MODULE),
            "graph": {"path": str(graph)},
            "data": [{"name": file.name, "path": str(file)} for file in data],
            "threads": threads or min(os.cpu_count() or 1, MOST_THREADS),
        }
        self.words = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [node()[0], str(SCRIPT), json.dumps(said)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words
        )
        weakref.finalize(self, _stop, self.process, self.words)
        self.folder = folder
        self._answer()

    @property
    def kv_bytes(self) -> int:
        return self.position * self.token_bytes

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        check_room(self.position, len(tokens), self.context)
        found = []
        for chunk, wanted in in_chunks(tokens, keep, CHUNK):
            logits = self._ask({"tokens": [*map(int, chunk)], "keep": max(wanted, 1)}).reshape(-1, self.vocabulary)
            found += [logits] if wanted else []
            self.position += len(chunk)
        return np.concatenate(found)

    def rewind(self, position: int) -> None:
        if position < self.position:
            self._ask({"rewind": position})
            self.position = position

    def _ask(self, request: dict[str, Any]) -> np.ndarray:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # of a process that ended, whose last words say why
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> np.ndarray:
        """Raises ModelCorrupt where Node says what is wrong, or ends."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise ModelCorrupt(
                "{file} cannot be run: {reason}",
                hint="Deploy the model again.",
                file=self.folder,
                reason=answer["error"].split("\n")[0],
            )
        return np.frombuffer(self.process.stdout.read(4 * answer["floats"]), np.float32)

    def _last_words(self) -> str:
        code = self.process.wait()
        self.words.seek(0)
        said = self.words.read().decode(errors="replace").strip().splitlines()
        return next((line for line in said if "rror" in line), f"Node ended with {code}")


def _stop(process: subprocess.Popen[bytes], words: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, words):
        if stream:
            stream.close()
