"""Files as memory: tensors are views into a private mapping, and pages that were read can be let go."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the files of a model are checked without it
    import torch
    from torch import Tensor


class MappedFile:
    """A file mapped copy-on-write: views are writable as PyTorch wants them, the file never changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.size = len(self.memory)

    def tensor(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A view of shape `shape` at `offset` bytes; the caller has checked that it lies in the file."""
        import torch

        count = math.prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        aligned = offset % dtype.itemsize == 0
        if not aligned:  # a damaged writer's file still reads, at the price of a copy
            raw = torch.frombuffer(self.memory, dtype=torch.uint8, count=count * dtype.itemsize, offset=offset)
            return raw.clone().view(dtype).view(shape)
        return torch.frombuffer(self.memory, dtype=dtype, count=count, offset=offset).view(shape)

    def release(self, offset: int, size: int) -> None:
        """Drop the pages of this range from resident memory; reading them again brings them back."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = offset - offset % mmap.PAGESIZE
        self.memory.madvise(mmap.MADV_DONTNEED, start, offset + size - start)
