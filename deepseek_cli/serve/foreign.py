"""Bundles of other engines, behind those engines' own servers: our options in their words, and nothing that has none there."""

from __future__ import annotations

import importlib.util
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

from deepseek_cli.errors import MissingExtra, ModelCorrupt, ModelUnsupported, ResourceError, UsageError
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
# By target, what serves its bundles, the better one first, and where in them lies what it takes.
SERVED_BY = {
    "gguf": {"gguf": "."},
    "vllm": {"vllm": "."},
    "rocm": {"vllm": ".", "gguf": "gguf"},
    "cuda": {"vllm": "vllm"},
}
ELSEWHERE = {  # what to do with the others
    "cuda": "vLLM does not take this model. Serve it from a cpu bundle: deepseek deploy MODEL --target cpu",
    "metal": "On a Mac: mlx_lm.server --model {path}. Elsewhere from a cpu bundle: deepseek deploy MODEL --target cpu",
    "mobile": "An app runs it. Serve the model from a cpu bundle: deepseek deploy MODEL --target cpu",
    "openvino": "OpenVINO Model Server takes {path}. Without it, serve a cpu bundle: deepseek deploy MODEL --target cpu",
    "tensorrt": "It has a server of its own: python {path}/serve.py. Or serve a cpu bundle: deepseek deploy MODEL --target cpu",
    "web": "It computes in the reader's browser: python {path}/serve.py. An API wants: deepseek deploy MODEL --target cpu",
}
CPU_BUNDLE = "Serve the model from a cpu bundle: deepseek deploy MODEL --target cpu"


@dataclass(frozen=True, slots=True)
class Part:
    """What of a bundle is served, and by what: a key of SERVERS."""

    engine: str
    folder: Path


def part_of(bundle: Bundle) -> Part:
    """What an installed server takes, or else the first, which then says what is missing.

    Raises ModelUnsupported for a bundle that neither takes.
    """
    places = SERVED_BY.get(bundle.target, {})
    parts = [Part(engine, bundle.root / place) for engine, place in places.items() if (bundle.root / place).is_dir()]
    if not parts:
        raise ModelUnsupported(
            "{model} is a {target} bundle, which serve does not run.",
            hint=ELSEWHERE.get(bundle.target, CPU_BUNDLE),
            model=bundle.name,
            target=bundle.target,
            path=bundle.root,
        )
    if len(parts) > 1 and not any(INSTALLED[part.engine]() for part in parts):
        raise MissingExtra(
            "Neither vLLM nor llama.cpp is installed, which serve {model}.",
            hint="Install one: pip install vllm, or pip install 'deepseek-cli[gguf]'",
            model=bundle.name,
        )
    return next((part for part in parts if INSTALLED[part.engine]()), parts[0])


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


def serve_gguf(bundle: Bundle, folder: Path, wanted: Wanted, listening: Listening) -> int:
    """llama.cpp's server, in this process, until SIGTERM. Raises MissingExtra, ModelCorrupt."""
    from deepseek_cli.runtime.gguf_session import MODEL
    from deepseek_cli.runtime.llamacpp import DISTRIBUTION
    from deepseek_cli.runtime.session import require

    require(DISTRIBUTION, "gguf", hint="Install it: pip install 'deepseek-cli[{extra}]'")
    import xllamacpp

    slots = wanted.slots or 1
    options = xllamacpp.CommonParams()
    options.model.path, options.model_alias = str(folder / MODEL), {bundle.name}
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


def serve_vllm(bundle: Bundle, folder: Path, wanted: Wanted, listening: Listening) -> int:
    """`vllm serve`, in a process of its own; its exit code, and 0 where it was told to stop. Raises MissingExtra, UsageError."""
    program = _vllm()
    if not program:
        raise MissingExtra("vLLM is not installed, which serves {model}.", hint="Install it: pip install vllm", model=bundle.name)
    if not wanted.port or wanted.threads:
        raise UsageError("vLLM cannot be told --port 0 or --threads.", hint="Name a port, and leave --threads out.")
    words = ["serve", str(folder), "--served-model-name", bundle.name, "--host", wanted.host, "--port", str(wanted.port)]
    words += ["--max-model-len", str(wanted.context)] if wanted.context else []
    words += ["--max-num-seqs", str(wanted.slots)] if wanted.slots else []
    with tempfile.TemporaryDirectory() as hidden:
        if wanted.keys:  # in a file: whoever lists processes reads their arguments
            secrets = Path(hidden) / "vllm.yaml"
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


SERVERS: dict[str, Callable[[Bundle, Path, Wanted, Listening], int]] = {"gguf": serve_gguf, "vllm": serve_vllm}


def serve_foreign(bundle: Bundle, part: Part, wanted: Wanted, listening: Listening) -> int:
    """The exit code. Raises UsageError for a context that the model does not have."""
    check_context(bundle, wanted.context)
    return SERVERS[part.engine](bundle, part.folder, wanted, listening)


def _vllm() -> str | None:
    """vLLM's program."""
    return shutil.which("vllm") or shutil.which("vllm", path=str(Path(sys.executable).parent))


INSTALLED: dict[str, Callable[[], object]] = {"gguf": lambda: importlib.util.find_spec("xllamacpp"), "vllm": _vllm}


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
