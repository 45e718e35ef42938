"""Bundles of other engines, behind those engines' own servers: our options in their words, and nothing that has none there."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import MissingExtra, ModelCorrupt, ResourceError, UsageError
from deepseek_cli.handle import Bundle
from deepseek_cli.runtime.context import DEFAULT_CONTEXT, check_context
from deepseek_cli.serve.keys import read_keys


@dataclass(frozen=True, slots=True)
class Wanted:
    """What every server can be told; `slots` and `context` are None where nobody said."""

    host: str
    port: int
    keys: tuple[str, ...] = ()
    slots: int | None = None
    context: int | None = None
    threads: int | None = None


Listening = Callable[[int], object]


def plain_keys(file: Path) -> tuple[str, ...]:
    """The keys themselves. Raises UsageError for roles and rates, which these servers do not know."""
    if any(key.role != "use" or key.rate for key in read_keys(file)):
        raise UsageError(
            "{file} gives keys roles or rates, which the server of this bundle does not know.",
            hint="Leave them out, or serve a cpu bundle.",
            file=file,
        )
    lines = (line.partition("#")[0].split() for line in file.read_text(encoding="utf-8").splitlines())
    return tuple(words[0] for words in lines if words)


def serve_gguf(bundle: Bundle, wanted: Wanted, listening: Listening) -> int:
    """llama.cpp's server, in this process, until SIGTERM. Raises MissingExtra, ModelCorrupt."""
    from deepseek_cli.runtime.gguf_session import MODEL
    from deepseek_cli.runtime.llamacpp import DISTRIBUTION
    from deepseek_cli.runtime.session import require

    require(DISTRIBUTION, "gguf", hint="Install it: pip install 'deepseek-cli[{extra}]'")
    import xllamacpp

    slots = wanted.slots or 1
    options = xllamacpp.CommonParams()
    options.model.path, options.model_alias = str(bundle.root / MODEL), {bundle.name}
    options.hostnames, options.port, options.api_keys = [wanted.host], wanted.port, list(wanted.keys)
    options.n_parallel = slots
    options.n_ctx = slots * (wanted.context or min(bundle.config.context, DEFAULT_CONTEXT))  # which its slots share
    options.verbosity = 1
    options.ui = False
    if wanted.threads:
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = wanted.threads
    stop = threading.Event()
    with _told_to_stop(stop.set):
        try:
            server = xllamacpp.Server(options)
        except RuntimeError as error:
            if _taken(wanted.host, wanted.port):
                hint = "Choose another --port."
                raise ResourceError(
                    "Nothing can listen at {host}, port {port}.", hint=hint, host=wanted.host, port=wanted.port
                ) from None
            hint = "Deploy it again with --force."
            raise ModelCorrupt("llama.cpp cannot serve {model}: {reason}", hint=hint, model=bundle.name, reason=error) from None
        listening(int(server.listening_address.rpartition(":")[2]))
        while not stop.wait(1.0):  # an endless wait would not hear Ctrl-C everywhere
            pass
    return 0


def serve_vllm(bundle: Bundle, wanted: Wanted, listening: Listening) -> int:
    """`vllm serve`, in a process of its own; its exit code, and 0 where it was told to stop. Raises MissingExtra, UsageError."""
    program = shutil.which("vllm") or shutil.which("vllm", path=str(Path(sys.executable).parent))
    if not program:
        raise MissingExtra("vLLM is not installed, which serves {model}.", hint="Install it: pip install vllm", model=bundle.name)
    if not wanted.port or wanted.threads:
        raise UsageError("vLLM cannot be told --port 0 or --threads.", hint="Name a port, and leave --threads out.")
    words = ["serve", str(bundle.root), "--served-model-name", bundle.name, "--host", wanted.host, "--port", str(wanted.port)]
    words += ["--max-model-len", str(wanted.context)] if wanted.context else []
    words += ["--max-num-seqs", str(wanted.slots)] if wanted.slots else []
    with tempfile.TemporaryDirectory() as folder:
        if wanted.keys:  # in a file: whoever lists processes reads their arguments
            secrets = Path(folder) / "vllm.yaml"
            secrets.write_text(json.dumps({"api-key": list(wanted.keys)}), encoding="utf-8")
            words += ["--config", str(secrets)]
        with subprocess.Popen([program, *words]) as process:
            told = threading.Event()

            def stop() -> None:
                told.set()
                process.terminate()

            with _told_to_stop(stop):
                listening(wanted.port)
                code = process.wait()
    return 0 if told.is_set() else code if code >= 0 else 128 - code


FOREIGN: dict[str, Callable[[Bundle, Wanted, Listening], int]] = {"gguf": serve_gguf, "vllm": serve_vllm}


def serve_foreign(bundle: Bundle, wanted: Wanted, listening: Listening) -> int:
    """The exit code. Raises UsageError for a context that the model does not have."""
    check_context(bundle, wanted.context)
    return FOREIGN[bundle.target](bundle, wanted, listening)


@contextmanager
def _told_to_stop(stop: Callable[[], Any]) -> Iterator[None]:
    """SIGTERM calls `stop` in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _taken(host: str, port: int) -> bool:
    import socket

    try:
        with socket.create_server((host, port)):
            return False
    except OSError:
        return True
