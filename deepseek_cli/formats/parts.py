"""What readers of quantized checkpoints share: the parts of a weight checked, and joined into one reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_cli.errors import ModelCorrupt, ModelUnsupported
from deepseek_cli.refs import DENSE, TensorRef

if TYPE_CHECKING:
    from deepseek_cli.tensors import Weight

BITS = (4, 8)
INDICES = ("i32", "i64")


def joined(name: str, shape: tuple[int, ...], stored: str, parts: Sequence[TensorRef], read: Callable[[], Weight]) -> TensorRef:
    """One reference to a weight that lies in several tensors."""

    def release() -> None:
        for ref in parts:
            ref.release()

    return TensorRef(name, shape, stored, sum(ref.size_bytes for ref in parts), read, release)


def check_stored(file: Path, known: Sequence[str], *parts: TensorRef) -> None:
    """Raises ModelCorrupt for a part of another dtype, or with nothing in it."""
    for ref in parts:
        if ref.stored not in known or not ref.shape or 0 in ref.shape:
            raise corrupt(
                "{file}: tensor {tensor} of dtype {dtype} and shape {shape} is no part of a quantized weight.",
                file,
                tensor=ref.name,
                dtype=ref.stored,
                shape=list(ref.shape),
            )


def check_scales(file: Path, *parts: TensorRef) -> None:
    check_stored(file, DENSE, *parts)


def whole_number(settings: Mapping[str, Any], field: str, file: Path, default: int = 0) -> int:
    """A number of bits, or a group size: 0 for a whole row, which stands there as 0, -1 or null."""
    found = settings.get(field, default)
    if found is None or (type(found) is int and found in (0, -1)):
        return 0
    if type(found) is not int or not 0 < found < 1 << 31:
        raise wrong(file, field, found, "a positive integer")
    return found


def supported(file: Path, field: str, found: object, known: Sequence[object]) -> None:
    """Raises ModelUnsupported for a setting that is not one of those `known`."""
    if found not in known:
        raise ModelUnsupported(
            "{file}: {field} {value} is not supported.",
            hint="Supported are {known}.",
            file=file,
            field=f"quantization_config.{field}",
            value=str(found)[:60],
            known=", ".join(str(value) for value in known if value is not None) or "none",
        )


def wrong(file: Path, field: str, found: object, wanted: str) -> ModelCorrupt:
    message, field = "{file}: {field} must be {wanted}, not {value}.", f"quantization_config.{field}"
    return corrupt(message, file, field=field, wanted=wanted, value=repr(found)[:60])


def lacking(file: Path, tensor: str, parts: Sequence[str]) -> ModelCorrupt:
    message = "{file}: tensor {tensor} lacks its other parts ({parts})."
    return corrupt(message, file, tensor=tensor, parts=", ".join(parts))


def unfitting(file: Path, tensor: str) -> ModelCorrupt:
    return corrupt("{file}: the parts of tensor {tensor} do not fit each other.", file, tensor=tensor)


def corrupt(message: str, file: Path, **facts: object) -> ModelCorrupt:
    return ModelCorrupt(message, hint="Pull the model again, or check where it comes from.", file=file, **facts)
