"""Low-rank corrections beside packed weights: `X.weight_correction_up` [out, rank] times `X.weight_correction_down` [rank, in].

They are ours alone: `correction_rank` stands beside `num_bits` in config.json, where the format's own library refuses any field
that it does not know, so that nobody computes without them unawares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from deepseek_cli.formats.grouped import value
from deepseek_cli.formats.parts import check_scales, lacking, unfitting
from deepseek_cli.formats.safetensors import Planned
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import CorrectedTensor, QuantizedTensor, TensorRef

RANK = "correction_rank"
PARTS = ("weight_correction_up", "weight_correction_down")
DTYPE = torch.bfloat16


def planned_parts(name: str, shape: tuple[int, int], scheme: Scheme) -> list[Planned]:
    """What `parts_of` will give for a weight called `name` (without `.weight`)."""
    rank = scheme.rank_of(*shape)
    shapes = ((shape[0], rank), (rank, shape[1]))
    return [Planned(f"{name}.{part}", DTYPE, size) for part, size in zip(PARTS, shapes, strict=True)] if rank else []


def parts_of(name: str, weight: CorrectedTensor) -> Iterator[tuple[str, Tensor]]:
    for part, factor in zip(PARTS, (weight.up, weight.down), strict=True):
        yield f"{name}.{part}", factor.to(DTYPE)


def with_correction(ref: TensorRef, tensors: Mapping[str, TensorRef], ranks: Sequence[int], file: Path) -> TensorRef:
    """`ref`, joined with its correction where config.json gives it one: `ranks` are those that it allows, 0 for none.

    Raises ModelCorrupt where parts are missing, or do not fit.
    """
    up, down = (tensors.get(f"{ref.name}{part.removeprefix('weight')}") for part in PARTS)
    out, inputs = ref.shape
    if not up and not down and (0 in ranks or not ranks):
        return ref
    if not up or not down:
        raise lacking(file, ref.name, PARTS)
    check_scales(file, up, down)
    rank = down.shape[0]
    if (up.shape, down.shape) != ((out, rank), (rank, inputs)) or rank not in (min(most, out, inputs) for most in ranks):
        raise unfitting(file, ref.name)

    def read() -> CorrectedTensor:
        rounded = ref.read()
        assert isinstance(rounded, QuantizedTensor)
        return CorrectedTensor(rounded, value(up), value(down))

    def release() -> None:
        for part in (ref, up, down):
            part.release()

    size = ref.size_bytes + up.size_bytes + down.size_bytes
    return replace(ref, stored=f"{ref.stored}-r{rank}", size_bytes=size, read=read, release=release)
