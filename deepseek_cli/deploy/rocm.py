"""The rocm target: the folder that vLLM serves on AMD GPUs, and beside it a GGUF file for llama.cpp's HIP build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek_cli.deploy import gguf, vllm
from deepseek_cli.deploy.serving import absent, write_server_files
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target, refusal
from deepseek_cli.handle import ModelHandle
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.rocm_session import PART

FILES = ("rocm/README.md", "rocm/compose.yaml", "vllm/deepseek-vllm.service")
LLAMA = ("rocm/deepseek-llama.service",)


def emit_bundle(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Write the folder, the file into a subfolder, and what starts either server for up to `context` tokens.

    A model that GGUF does not hold is in the folder alone, which is said. Raises ModelUnsupported for codes that vLLM cannot
    take, UsageError for options of caches.
    """
    reason = refusal(lambda: plan_file(handle))
    record = vllm.emit_folder(handle, spec, folder, context, threads, reporter)
    readers, fallbacks = record["readers"], record["dense_fallbacks"]
    if reason:
        reporter.warn("The bundle holds no file for llama.cpp. {reason}", reason=reason)
    else:
        (folder / PART).mkdir()
        fallbacks = fallbacks + gguf.emit_bundle(handle, spec, folder / PART, context, threads, reporter)["dense_fallbacks"]
        (folder / PART / "README.md").unlink()  # the bundle's own speaks of both
        write_server_files(handle, folder, LLAMA, context=context)
        readers = [*readers, "llama.cpp"]
    write_server_files(handle, folder, FILES, context=context, inside="", llama=not reason)
    return {"readers": readers, "dense_fallbacks": [*dict.fromkeys(fallbacks)]}


def unexpected(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    files = FILES if refusal(lambda: plan_file(handle)) else (*FILES, PART, *LLAMA)
    return sorted({*vllm.unlike(handle, folder, threads), *absent(folder, files)})


def plan_file(handle: ModelHandle) -> None:
    """Raises ModelUnsupported for a model that GGUF does not hold."""
    gguf.header(handle, gguf.plan(handle)[0])


def runtime() -> str:
    """Raises MissingExtra."""
    return f"{vllm.FOLDER.runtime()}, {gguf.TARGET.runtime()}"


TARGET = Target(
    "rocm",
    emit_bundle,
    unexpected,
    vllm.read_back,
    vllm.FOLDER.open_folder,
    runtime,
    reference=vllm.reopen,
    precisions=("fp16", "bf16"),
    unrun=("vllm on ROCm", "llama.cpp on ROCm"),
    parts={PART: gguf.TARGET},
)
