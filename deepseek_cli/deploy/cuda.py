"""The cuda target: a float16 ONNX graph for ONNX Runtime on NVIDIA GPUs, and beside it the folder that vLLM serves there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek_cli.deploy import vllm
from deepseek_cli.deploy.cpu import unexpected as unlike_graph
from deepseek_cli.deploy.onnx_gpu import misconfigured, reference, require_plain, stand_in, write_graph
from deepseek_cli.deploy.readback import read_back
from deepseek_cli.deploy.serving import absent, write_server_files
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target, refusal
from deepseek_cli.deploy.vllm_layout import make_layout
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.onnx_half import HalfOps
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.onnx_half_session import open_folder

PART = "vllm"
# A CUDA graph is captured for fixed shapes, and the last positions, of which logits are wanted, are counted by the CPU.
PROVIDER = {"cuda": {"enable_cuda_graph": "0"}}


def emit_bundle(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Write the graph into `folder`, and what vLLM takes into a subfolder, with what starts a server for `context` tokens.

    Codes that vLLM cannot take are in the graph alone, which is said. Raises ModelUnsupported and UsageError.
    """
    require_plain(handle, spec, "cuda")
    reason = refusal(lambda: make_layout(handle))
    fallbacks = write_graph(handle, folder, context, HalfOps, PROVIDER, reporter)
    readers = ["deepseek", "onnxruntime", "onnxruntime-genai"]
    if reason:
        reporter.warn("The bundle holds no folder for vLLM. {reason}", reason=reason)
    else:
        (folder / PART).mkdir()
        fallbacks += vllm.emit_folder(handle, spec, folder / PART, context, threads, reporter)["dense_fallbacks"]
        write_server_files(handle, folder, vllm.SERVER, context=context, inside=f"/{PART}")
        readers.append("vllm")
    write_server_files(handle, folder, ("cuda/README.md",), context=context, vllm=not reason)
    return {"readers": readers, "dense_fallbacks": [*dict.fromkeys(fallbacks)]}


def unexpected(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    served = () if refusal(lambda: make_layout(handle)) else (PART, *vllm.SERVER)
    return sorted({*unlike_graph(handle, folder, threads), *misconfigured(folder, "cuda"), *absent(folder, served)})


def runtime() -> str:
    """Raises MissingExtra."""
    return f"{stand_in()}, {vllm.FOLDER.runtime()}"


TARGET = Target(
    "cuda",
    emit_bundle,
    unexpected,
    read_back,
    open_folder,
    runtime,
    reference=reference,
    unrun=("onnxruntime CUDA provider", "vllm"),
    parts={PART: vllm.FOLDER},
)
