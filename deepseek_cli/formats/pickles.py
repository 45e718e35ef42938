"""Weights that were pickled by torch.save, made safetensors. Only a process of its own does this: see `sources.pickles`.

PyTorch's restricted unpickler (`weights_only=True`) builds tensors and plain containers and calls nothing else. Should it ever be
led astray, the process it runs in refuses to start programs, to reach the network, and to write outside the target folder.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek_cli.errors import DeepseekError, MemoryShort, ModelCorrupt, ModelUnsupported

REFUSED = re.compile(
    r"subprocess\.|socket\.(connect|bind|sendto|getaddrinfo)|ctypes\.(dlopen|call_function)|shutil\."
    r"|os\.(system|exec|fork|forkpty|posix_spawn|spawn|startfile|kill|remove|rename|rmdir|link|symlink|truncate|chmod|chown)"
)
HINT = "Do not use this repository: look for a converted version."


def main(request: dict[str, Any]) -> None:
    """One JSON object a line goes to the real standard output: `step` for each tensor written, or `error`."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with it

    def emit(**facts: Any) -> None:
        out.write(json.dumps(facts) + "\n")
        out.flush()

    try:
        for done, total in convert([Path(file) for file in request["files"]], Path(request["folder"])):
            emit(step=[done, total])
    except DeepseekError as error:
        emit(error=said_of(error))
    except MemoryError:
        short = MemoryShort("There is not enough memory to convert the weights.", hint="Look for a converted version.")
        emit(error=said_of(short))


def said_of(error: DeepseekError) -> list[Any]:
    return [type(error).__name__, error.message, error.hint, {name: str(value) for name, value in error.facts.items()}]


def convert(files: list[Path], folder: Path) -> Iterator[tuple[int, int]]:
    """Safetensors in `folder` with every tensor of `files`, of which one is held at a time. Gives bytes written, and of how many.

    Raises ModelUnsupported for a pickle that would run code or holds other things than tensors, ModelCorrupt for a damaged one.
    """
    from deepseek_cli.formats.safetensors import Planned, Writer

    confine(folder)
    owner: dict[str, Path] = {}
    planned: list[Planned] = []
    for file in files:
        for name, tensor in _load(file).items():
            if name in owner:
                raise _corrupt("{file}: tensor {tensor} is in {other}, too.", file, tensor=name, other=owner[name].name)
            owner[name] = file
            planned.append(Planned(name, tensor.dtype, tuple(tensor.shape)))
    total, done = sum(tensor.size for tensor in planned), 0
    with Writer(folder, planned) as writer:
        for file in files:
            for name, tensor in _load(file).items():
                writer.write(name, tensor)
                done += tensor.nbytes
                yield done, total


def confine(folder: Path) -> None:
    """From here on this process starts no program, opens no connection, loads no library, and writes only into `folder`."""
    allowed = f"{folder.resolve()}{os.sep}"

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        writes = False
        if event == "open" and isinstance(arguments[0], str | bytes):
            writes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            writes = writes and not os.path.realpath(os.fsdecode(arguments[0])).startswith(allowed)
        if writes or REFUSED.match(event):
            raise PermissionError(f"{event} is refused while weights are converted")

    sys.addaudithook(audit)


def _load(file: Path) -> dict[str, Any]:
    """The tensors of one file, in memory only as far as they are read where its format allows."""
    import torch
    from torch import Tensor

    _require_plain(file)
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # whatever the bytes of a stranger come to
        raise _refusal(file, str(error) or type(error).__name__) from None
    if not isinstance(found, dict):
        raise _unsupported("{file} does not hold tensors by name, but a {kind}.", file, kind=type(found).__name__)
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            raise _unsupported("{file}: {name} is no plain tensor.", file, name=str(name)[:80])
        _require_storable(file, name, tensor)
    return found


def _require_plain(file: Path) -> None:
    """PyTorch stores its parts as they are. A compressed one could be of any size."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
    except zipfile.BadZipFile as error:
        raise _corrupt("{file} is no pickle of tensors that can be read: {reason}.", file, reason=str(error)) from None
    if not stored:
        raise _corrupt("{file} has compressed parts, as torch.save never writes them.", file)


def _require_storable(file: Path, name: str, tensor: Any) -> None:
    from deepseek_cli.formats.safetensors import NAMES

    if tensor.dtype not in NAMES:
        raise _unsupported("{file}: {name} has dtype {dtype}.", file, name=name, dtype=str(tensor.dtype))
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise _corrupt("{file}: tensor {tensor} is larger than what is stored of it.", file, tensor=name)


def _refusal(file: Path, reason: str) -> DeepseekError:
    if match := re.search(r"(?:GLOBAL|global:?|function) `?([A-Za-z_][\w.]*\.\w+)", reason):
        return _unsupported("{file} wants to call {name} when it is opened: refused, nothing was run.", file, name=match[1])
    if "weights_only" in reason or "Weights only" in reason:
        return _unsupported("{file} is damaged or holds more than tensors: refused, nothing was run.", file)
    return _corrupt("{file} is no pickle of tensors that can be read: {reason}.", file, reason=reason.splitlines()[0][:120])


def _unsupported(message: str, file: Path, **facts: object) -> ModelUnsupported:
    return ModelUnsupported(message, hint=HINT, file=file.name, **facts)


def _corrupt(message: str, file: Path, **facts: object) -> ModelCorrupt:
    return ModelCorrupt(message, hint=HINT, file=file.name, **facts)
