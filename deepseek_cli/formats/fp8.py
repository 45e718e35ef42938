"""FP8 block checkpoints, as DeepSeek-V3 and later are released in (github.com/deepseek-ai/DeepSeek-V3, README_WEIGHTS.md).

`X.weight` e4m3 [out, in] and `X.weight_scale_inv` [ceil(out / rows), ceil(in / columns)], in any shard: a value times the
scale of its block. Blocks at the lower and the right edge may be ragged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_cli.formats.parts import corrupt, joined, supported, wrong
from deepseek_cli.refs import TensorRef

if TYPE_CHECKING:
    from deepseek_cli.tensors import Fp8Tensor

STORED = "f8_e4m3"
SCALE_DTYPES = ("f32", "bf16", "f8_e8m0")
SCALE_FORMATS = (None, "float", "ue8m0")
WEIGHT, SCALE = ".weight", ".weight_scale_inv"


def assemble(tensors: Mapping[str, TensorRef], settings: Mapping[str, Any], file: Path) -> dict[str, TensorRef]:
    """The same tensors with each FP8 weight and its scale joined into one reference called `X.weight`."""
    _check_format(settings, file)
    block = _block_size(settings, file)
    joined = {}
    for name, ref in tensors.items():
        if name.endswith(SCALE):
            _check_scaled(name, tensors, file)
        elif ref.stored == STORED and name.removesuffix(WEIGHT) + SCALE in tensors:
            joined[name] = _join(ref, tensors[name.removesuffix(WEIGHT) + SCALE], block, file)
        else:
            joined[name] = ref
    return joined


def refuse_unscaled(tensors: Mapping[str, TensorRef], file: Path) -> None:
    """Raises ModelCorrupt for an FP8 tensor whose scale is not known: taken as it is, it would be wrong by any factor."""
    bare = next((name for name, ref in tensors.items() if ref.stored == STORED), None)
    if bare:
        raise corrupt(
            "{file}: tensor {tensor} is FP8 and has no {scale}, or quantization_config does not say fp8.",
            file,
            tensor=bare,
            scale=bare.removesuffix(WEIGHT) + SCALE,
        )


def _check_format(settings: Mapping[str, Any], file: Path) -> None:
    known: dict[str, tuple[object, ...]] = {"fmt": (None, "e4m3"), "scale_fmt": SCALE_FORMATS}
    for field, values in known.items():
        supported(file, field, settings.get(field), values)


def _block_size(settings: Mapping[str, Any], file: Path) -> tuple[int, int]:
    size = settings.get("weight_block_size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 0 < n < 1 << 20 for n in size):
        raise wrong(file, "weight_block_size", size, "two positive integers")
    return size[0], size[1]


def _check_scaled(name: str, tensors: Mapping[str, TensorRef], file: Path) -> None:
    weight = tensors.get(name.removesuffix(SCALE) + WEIGHT)
    if weight is None or weight.stored != STORED:
        raise corrupt("{file}: tensor {tensor} scales a weight that is missing or not FP8.", file, tensor=name)


def _join(weight: TensorRef, scale: TensorRef, block: tuple[int, int], file: Path) -> TensorRef:
    if scale.stored not in SCALE_DTYPES:
        raise corrupt("{file}: tensor {tensor} has dtype {dtype}.", file, tensor=scale.name, dtype=scale.stored)
    wanted = tuple(-(-size // step) for size, step in zip(weight.shape, block, strict=False))
    if len(weight.shape) != 2 or scale.shape != wanted:
        raise corrupt(
            "{file}: tensor {tensor} has shape {found}; blocks of {block} over {weight} want {wanted}.",
            file,
            tensor=scale.name,
            found=list(scale.shape),
            block=list(block),
            weight=list(weight.shape),
            wanted=list(wanted),
        )

    def read() -> Fp8Tensor:
        import torch

        from deepseek_cli.formats.grouped import value
        from deepseek_cli.tensors import Fp8Tensor

        scales = value(scale).float().repeat_interleave(block[0], dim=0)[: weight.shape[0]]
        return Fp8Tensor(value(weight).view(torch.uint8), scales, block[1])

    return joined(weight.name, weight.shape, "fp8", [weight, scale], read)
