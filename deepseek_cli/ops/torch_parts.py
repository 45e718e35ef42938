"""The PyTorch interpreter over many windows of text: each value is a list of parts, which may lie on disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.ops.torch_ops import TorchOps


def fastest_dtype() -> torch.dtype:
    """What this machine multiplies fastest: bfloat16 where its processor has it."""
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def product_rate(dtype: torch.dtype) -> float:
    """Operations a second of large products on this machine: the fastest of some, since any may have had to wait."""
    x, weight = torch.randn(2048, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    seconds = list[float]()
    for _ in range(5):
        start = time.perf_counter()
        x @ weight
        seconds.append(time.perf_counter() - start)
    return 2 * x.numel() * weight.shape[1] / min(seconds)


class Spool:
    """Keeps tensors in memory up to `budget` bytes in all, and those beyond in files of a folder, which is emptied first."""

    def __init__(self, budget: int, folder: Path) -> None:
        self.free, self.count, self.folder = budget, 0, folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def keep(self, tensor: Tensor) -> Held:
        if tensor.nbytes <= self.free:
            self.free -= tensor.nbytes
            return Held(self, tensor, None)
        self.count += 1
        file = self.folder / str(self.count)
        file.write_bytes(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return Held(self, torch.empty_like(tensor, device="meta"), file)


class Held:
    """A tensor that a spool keeps. Its memory, or its file, is free again when nothing refers to it."""

    __slots__ = ("_file", "_spool", "_tensor")

    def __init__(self, spool: Spool, tensor: Tensor, file: Path | None) -> None:
        self._spool, self._tensor, self._file = spool, tensor, file

    def load(self) -> Tensor:
        if self._file is None:
            return self._tensor
        stored = torch.from_file(str(self._file), size=self._tensor.nbytes, dtype=torch.uint8)
        return stored.view(self._tensor.dtype).view(self._tensor.shape)

    def __del__(self) -> None:
        if self._file is None:
            self._spool.free += self._tensor.nbytes
        else:
            self._file.unlink(missing_ok=True)


class Parts(Sequence[Any]):
    """One value, a part for each few windows. Whatever is no tensor is not the spool's."""

    def __init__(self, spool: Spool, values: Iterable[Any]) -> None:
        self.spool = spool
        self.held = [spool.keep(v) if isinstance(v, Tensor) else v for v in values]

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: Any) -> Any:
        value = self.held[index]
        return value.load() if isinstance(value, Held) else value

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def drain(self) -> Iterator[Any]:
        """Each part for the last time: nothing stays behind."""
        self.held.reverse()
        while self.held:
            value = self.held.pop()
            yield value.load() if isinstance(value, Held) else value


def over_parts(work: Callable[..., Any], *values: Any) -> Parts:
    """`work` for each part of those `values` that are in parts, beside those that are not."""
    parts = [v for v in values if isinstance(v, Parts)]
    pick = lambda i: (v[i] if isinstance(v, Parts) else v for v in values)  # noqa: E731
    return Parts(parts[0].spool, (work(*pick(i)) for i in range(len(parts[0]))))


class PartsOps:
    """Every operator means for each part what it means in `TorchOps`; all windows start at position 0."""

    def __init__(self, weights: Callable[[str], Tensor | None] | Mapping[str, Tensor]) -> None:
        self.inner = TorchOps(weights)

    def __getattr__(self, operator: str) -> Callable[..., Parts]:
        work = getattr(self.inner, operator)
        return lambda *values: over_parts(work, *values)

    def linears(self, x: Parts, names: Sequence[str]) -> list[Parts]:
        return [over_parts(self.inner.linear, x, name) for name in names]

    def linear(self, x: Parts, name: str) -> Parts:
        return self.linears(x, [name])[0]

    def gated_mlp(self, x: Parts, gate: str, up: str, down: str) -> Parts:
        g, u = self.linears(x, [gate, up])
        both = zip(g.drain(), u.drain(), strict=True)  # these are the widest values of a model: two at once are enough
        return self.linear(Parts(x.spool, (F.silu(a) * b for a, b in both)), down)
