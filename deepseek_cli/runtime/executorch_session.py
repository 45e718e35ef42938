"""A session over a mobile bundle: ExecuTorch's own runtime, with XNNPACK, on any CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepseek_cli.errors import MissingExtra, ModelCorrupt, UsageError
from deepseek_cli.ops.executorch_ops import load_operators, quiet
from deepseek_cli.runtime.session import check_room

if TYPE_CHECKING:
    from deepseek_cli.formats.pte import Program

PROGRAM = "model.pte"
RELEASE = "1.5"  # whose files and parsers formats/pte.py was read against


def runtime() -> str:
    """Name and version. Raises MissingExtra, for another release too; a bundle cannot be written without."""
    install = "Install it: pip install 'deepseek-cli[{extra}]'"
    try:
        version = [metadata.version(name) for name in ("torchao", "ruamel.yaml", "executorch")][-1]
    except metadata.PackageNotFoundError as missing:
        raise MissingExtra(
            "{distribution} is not installed.", hint=install, distribution=str(missing.name), extra="mobile"
        ) from None
    if not version.startswith(f"{RELEASE}."):
        raise MissingExtra(
            "{distribution} {version} is installed, and its files differ from those of {needed}.",
            hint=install,
            distribution="executorch",
            version=version,
            needed=RELEASE,
            extra="mobile",
        )
    return f"executorch {version}"


def open_folder(folder: Path, config: Any, context: int, threads: int | None, exact: bool) -> ExecutorchSession:
    """What runs a mobile bundle; `exact` with products that round nothing, of the same file's weights."""
    runtime()
    return ExecutorchSession(folder / PROGRAM, config, context, threads, exact)


class ExecutorchSession:
    """`context` is cut to what the program's KV cache holds. A program gives one row of logits a call: of its last token."""

    def __init__(self, file: Path, config: Any, context: int, threads: int | None = None, exact: bool = False) -> None:
        require_threads(threads)
        if exact:
            with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # once it is mapped, its name may go
                whole = Path(scratch, PROGRAM)
                read(file).write_exact(whole)
                self._load(whole)
        else:
            self._load(file)
        self.context, self.position = min(context, self.longest), 0
        self.token_bytes = 2 * config.layers * config.kv_heads * config.head_dim * 4

    def _load(self, file: Path) -> None:
        self.program = load(file)
        try:
            self.method = self.program.load_method("forward")
            self.step, self.longest = (int(self.constant(f"get_max_{of}_len")) for of in ("seq", "context"))
        except (RuntimeError, KeyError) as error:
            raise _corrupt(file, error) from error

    def constant(self, name: str) -> Any:
        """What a method without inputs says."""
        return self.program.load_method(name).execute([])[0]

    @property
    def kv_bytes(self) -> int:
        return self.position * self.token_bytes

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        if self.position + len(tokens) > self.longest:
            raise UsageError(
                "{count} tokens do not fit in the {context} that the bundle's cache holds.",
                hint="Deploy it again with a larger --context, or use a shorter prompt.",
                count=self.position + len(tokens),
                context=self.longest,
            )
        check_room(self.position, len(tokens), self.context)
        kept = min(keep, len(tokens)) or len(tokens)
        first = len(tokens) - kept + 1  # tokens up to the first whose logits are wanted
        for start in range(0, first, self.step):
            row = self._run(tokens[start : min(start + self.step, first)])
        return np.concatenate([row, *(self._run([token]) for token in tokens[first:])])

    def _run(self, tokens: Sequence[int]) -> np.ndarray:
        (logits,) = self.method.execute([torch.tensor([list(tokens)]), torch.tensor([self.position])])
        self.position += len(tokens)
        return np.array(logits[0].numpy())

    def rewind(self, position: int) -> None:
        self.position = min(position, self.position)


def load(file: Path) -> Any:
    """The program in ExecuTorch's runtime. Raises ModelCorrupt."""
    with quiet():
        from executorch.runtime import Runtime

        load_operators()
        try:
            return Runtime.get().load_program(file)
        except RuntimeError as error:
            raise _corrupt(file, error) from error


def read(file: Path) -> Program:
    """The program as ExecuTorch's own parsers read it. Raises ModelCorrupt."""
    with quiet():
        from deepseek_cli.formats.pte import Program

        return Program(file)


def require_threads(threads: int | None) -> None:
    """Start ExecuTorch's one thread pool, which no loaded program outlives, without what it says of the processor: that goes
    straight to the process's second file."""
    with quiet():
        from executorch.extension.pybindings import (
            _C,
            portable_lib,  # noqa: F401  what loads _C's libraries
        )
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        running = _C._threadpool_get_thread_count()
        if threads and threads != running:
            _C._unsafe_reset_threadpool(threads)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _corrupt(file: Path, error: Exception) -> ModelCorrupt:
    reason = str(error).split("\n")[0]
    return ModelCorrupt("{file} cannot be loaded: {reason}", hint="Deploy the model again.", file=file, reason=reason)
