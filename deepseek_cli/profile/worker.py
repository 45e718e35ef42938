"""The measured process: import, load, prepack, prefill, decode, and nothing else, so that every byte belongs to one of them.

It writes one JSON object a line to its real standard output: `model`, a `phase` at the end of each phase, `details`
(weights, KV cache, layers, operators), `leak`, and `end` or `error`. What was written before a crash stays with whoever reads.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from deepseek_cli.errors import DeepseekError, MemoryShort
from deepseek_cli.profile import memory
from deepseek_cli.profile.machine import process_limit
from deepseek_cli.spec import format_size


@dataclass
class Worker:
    """What the process holds at the moment; `out` takes the events."""

    request: dict[str, Any]
    out: TextIO
    model_files: frozenset[str] = frozenset()
    session: Any = None
    logits: Any = None
    current: str = "import"
    start: float = 0.0
    cpu: float = 0.0
    tokens: int = 0

    def emit(self, event: str, **facts: Any) -> None:
        self.out.write(json.dumps({"event": event, **facts}) + "\n")
        self.out.flush()

    @contextmanager
    def phase(self, name: str, tokens: int = 0) -> Iterator[None]:
        """Time what is inside; then read the memory, and let the peak start anew."""
        self.current, self.tokens = name, tokens
        self.start, self.cpu = self.request["started"] if name == "import" else time.monotonic(), time.process_time()
        yield
        self.end()

    def pack(self) -> None:
        """Loading has come to packing: a phase of its own. It goes on while this reads, so that counters differ by some MB."""
        (self.start, self.cpu), self.current = self.end(unpacked=True), "prepack"

    def end(self, unpacked: bool = False) -> tuple[float, float]:
        """Say what the phase took; `unpacked` where its weights are not packed yet. Gives back when, by both clocks."""
        end, cpu = time.monotonic(), time.process_time()
        peak, now, heap = memory.peak(), memory.resident(self.model_files), memory.heap()
        self.emit(
            "phase",
            name=self.current,
            unpacked=unpacked,
            start=self.start,
            end=end,
            cpu_seconds=cpu - self.cpu,
            tokens=self.tokens,
            rss_bytes=now.rss,
            anonymous_bytes=now.anonymous,
            model_file_bytes=now.model_file,
            other_file_bytes=now.other_file,
            other_private_bytes=now.other_private,
            peak_bytes=None if peak is None else max(peak, now.rss),
            weights_memory_bytes=weights_in_memory(self.session, self.model_files),
            kv_resident_bytes=kv_resident(self.session),
            logits_bytes=array_bytes(self.logits),
            heap_used_bytes=heap.used,
            heap_free_bytes=heap.free,
            python_bytes=memory.python_bytes(),
            peak_reset=memory.reset_peak(),
        )
        return end, cpu


def main(request: dict[str, Any]) -> None:
    """Run the phases; `measure.run_worker` says what `request` holds."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the events
    worker = Worker(request, out)
    try:
        work(worker)
    except DeepseekError as error:
        report(worker, error)
    except MemoryError:
        report(worker, MemoryShort("There is not enough memory for this run.", hint="Use a smaller context or a smaller scheme."))


def report(worker: Worker, error: DeepseekError) -> None:
    facts = {name: value if isinstance(value, (int, float)) else str(value) for name, value in error.facts.items()}
    worker.emit("error", phase=worker.current, kind=type(error).__name__, message=error.message, hint=error.hint, facts=facts)


def work(worker: Worker) -> None:
    request = worker.request
    with worker.phase("import"):
        from deepseek_cli.handle import open_any
        from deepseek_cli.profile.subject import prompt_of, subject_of
        from deepseek_cli.store import Store

        handle = open_any(request["ref"], Store(Path(request["home"])))
        subject = subject_of(handle, request)
        worker.model_files = files_of(handle.root)
    worker.emit("model", **subject.describe())
    require_limit(subject.weights_bytes, handle.name)
    with worker.phase("load"):
        worker.session = subject.open(worker.pack)
    prompt = prompt_of(handle.config.vocabulary, request["prompt_tokens"])
    with worker.phase("prefill", len(prompt)):
        worker.logits = worker.session.feed(prompt)
    with worker.phase("decode", request["new_tokens"]):
        for _ in range(request["new_tokens"]):
            worker.logits = worker.session.feed([int(worker.logits[-1].argmax())])
    if not request["plain"]:
        worker.emit("details", **subject.details(worker.session))
    if request["leak"]:
        from deepseek_cli.profile.leak import leak_of

        worker.current = "leak test"
        worker.emit("leak", **leak_of(worker.session, prompt, request["new_tokens"], request["leak"]))
    worker.emit("end")


def require_limit(weights: int, name: str) -> None:
    """Raises MemoryShort where what this process may hold is less than the weights alone will take."""
    limit = process_limit()
    if limit is not None and weights > limit:
        raise MemoryShort(
            "{model} takes {needed} of memory for its weights alone, and this process may hold {limit}.",
            hint="Raise the limit of its control group (or ulimit -v), or make the model smaller: deepseek quantize --int4.",
            model=name,
            needed=format_size(weights),
            limit=format_size(limit),
        )


def array_bytes(array: Any) -> int:
    """Bytes of the memory that a NumPy array keeps alive, which may be more than it shows; 0 for None."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return 0 if array is None else int(array.nbytes)


def files_of(root: Path) -> frozenset[str]:
    """The model's files as the system names them in its list of mappings."""
    files = [root] if root.is_file() else [f for f in root.iterdir() if f.is_file()]
    return frozenset(str(f.resolve()) for f in files)


def weights_in_memory(session: Any, model_files: frozenset[str]) -> int:
    """Bytes of the weights that PyTorch holds outside the model's mapped files: converted, dequantized or copied ones."""
    tensors = getattr(session, "weights", None)
    if not isinstance(tensors, dict):
        return 0
    mapped = memory.mapped_ranges(model_files)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values() if t.device.type == "cpu"}
    return sum(size for address, size in storages.items() if not any(address in r for r in mapped))


def kv_resident(session: Any) -> int:
    """Bytes of the KV cache that are resident, in whole pages; those that hold tokens where the system does not tell."""
    if session is None:
        return 0
    pages = [memory.resident_of(address, size) for address, size in kv_buffers(session)]
    known = [p for p in pages if p is not None]
    return sum(known) if known and len(known) == len(pages) else int(session.kv_bytes)


def kv_buffers(session: Any) -> list[tuple[int, int]]:
    """Address and size of each buffer of the KV cache: one array in ONNX Runtime's session, some tensors a layer in PyTorch's."""
    cache: Any = getattr(session, "cache", None)
    if hasattr(cache, "ctypes"):
        return [(cache.ctypes.data, cache.nbytes)]
    return [(t.data_ptr(), t.nbytes) for pair in getattr(cache, "rows", {}).values() for t in pair]
