"""What this process can tell of its own memory at one moment, as parts that sum exactly to what the system reports.

PyTorch is looked into where the program has loaded it. Tensors that only PyTorch's C++ side holds, such as those that
autograd saved, are on the heap and count as the libraries'.
"""

from __future__ import annotations

import gc
import sys
from bisect import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.profile import memory
from deepseek_cli.profile.parts import Part
from deepseek_cli.profile.worker import kv_buffers

WEIGHTS = (".safetensors", ".onnx", ".data", ".gguf", ".bin", ".pt", ".pth")  # of files that hold weights
TENSORS = ("parameters", "gradients", "optimizer_state", "buffers", "other_tensors")


@dataclass(frozen=True, slots=True)
class Reading:
    rss: int
    anonymous: int | None
    parts: list[Part]

    def beside(self, part: str, size: int) -> Reading:
        """With memory that is not this process's own."""
        anonymous = None if self.anonymous is None else self.anonymous + size
        return Reading(self.rss + size, anonymous, [*self.parts[:-1], {"part": part, "bytes": size}, self.parts[-1]])


def reading(session: Any = None) -> Reading:
    """`session` is one of deepseek's own whose KV cache is told apart."""
    ranges = file_ranges()
    now = memory.resident({path for path, _ in ranges if Path(path).suffix in WEIGHTS})
    buffers = kv_buffers(session) if session is not None else []
    kv = sum(memory.resident_of(*buffer) or 0 for buffer in buffers)
    tensors = tensor_bytes([r for _, r in ranges], {address for address, _ in buffers})
    heap = memory.heap()
    on_heap = sum(tensors.values()) + (0 if hasattr(getattr(session, "cache", None), "ctypes") else kv)  # else it is mapped
    known = {
        "weights_mapped": now.model_file or 0,
        **tensors,
        "kv": kv,
        "runtime_files": (now.other_file or 0) + (now.other_private or 0),
        "python": memory.python_bytes(),
        "runtime_heap": max(heap.used - on_heap, 0),
        "heap_free": heap.free,
    }
    parts = [{"part": part, "bytes": size} for part, size in known.items()]
    return Reading(now.rss, now.anonymous, [*parts, {"part": "unattributed", "bytes": now.rss - sum(known.values())}])


def file_ranges() -> list[tuple[str, range]]:
    """Where files are mapped, in order of addresses; nothing off Linux."""
    try:
        with (memory.PROC / "maps").open(encoding="utf-8", errors="surrogateescape") as lines:
            found = [match for line in lines if (match := memory.MAPPING.match(line.rstrip("\n"))) and match[3].startswith("/")]
    except OSError:
        return []
    return [(memory.path_of(match), range(int(match[1], 16), int(match[2], 16))) for match in found]


def tensor_bytes(mapped: list[range], others: Iterable[int] = ()) -> dict[str, int]:
    """Bytes of PyTorch's tensors in this machine's memory by what they are for; each storage counts once, those in `mapped`
    files and at the addresses `others` not at all."""
    sizes = dict.fromkeys(TENSORS, 0)
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "nn"):
        return sizes
    starts, seen = [r.start for r in mapped], set(others)
    for kind, tensor in tensors_by_kind(torch):
        place = storage(tensor)
        if place is None or place[0] in seen:
            continue
        seen.add(place[0])
        at = bisect(starts, place[0]) - 1
        if at < 0 or place[0] not in mapped[at]:
            sizes[kind] += place[1]
    return sizes


def tensors_by_kind(torch: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor that Python knows of; one that is of two kinds comes as the more telling one first."""
    objects = gc.get_objects()
    tensors = [o for o in objects if issubclass(type(o), torch.Tensor)]
    parameters = [t for t in tensors if issubclass(type(t), torch.nn.Parameter)]
    yield from (("parameters", p) for p in parameters)
    yield from (("gradients", t.grad) for t in tensors if t.is_leaf and t.grad is not None)
    for optimizer in (o for o in objects if issubclass(type(o), torch.optim.Optimizer)):
        states = [value for state in optimizer.state.values() if isinstance(state, dict) for value in state.values()]
        yield from (("optimizer_state", value) for value in states if isinstance(value, torch.Tensor))
    for module in (o for o in objects if issubclass(type(o), torch.nn.Module)):
        yield from (("buffers", b) for b in module.__dict__.get("_buffers", {}).values() if b is not None)
    yield from (("other_tensors", t) for t in tensors)


def storage(tensor: Any) -> tuple[int, int] | None:
    """Address and bytes of the memory behind a tensor; None where it has none here."""
    try:
        if tensor.device.type != "cpu":
            return None
        held = tensor.untyped_storage()
        return (held.data_ptr(), held.nbytes()) if held.nbytes() else None
    except (RuntimeError, NotImplementedError):  # sparse tensors, and those that only stand for others
        return None
