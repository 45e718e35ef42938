"""The tensorrt target: a float16 ONNX graph whose int4 weights TensorRT dequantizes itself, for its provider for RTX cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek_cli.architectures.llama import EMBEDDING, HEAD
from deepseek_cli.deploy.cpu import unexpected as unlike_graph
from deepseek_cli.deploy.onnx_gpu import misconfigured, reference, require_plain, stand_in, write_graph
from deepseek_cli.deploy.readback import read_back
from deepseek_cli.deploy.serving import absent, write_server_files
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.onnx_half import BLOCKS, QdqOps, unfit_for_tensorrt
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.onnx_half_session import open_folder
from deepseek_cli.runtime.onnx_session import KEEP

FILES = ("tensorrt/README.md", "tensorrt/compose.yaml", "tensorrt/deepseek-tensorrt.service", "tensorrt/serve.py")
PROVIDER = {"NvTensorRtRtx": {"enable_cuda_graph": "1"}}  # as onnxruntime-genai's own builder has it


def emit_bundle(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Write the graph into `folder`, and a server for up to `context` tokens.

    Raises ModelUnsupported for codes that TensorRT refuses and another rounding would not, UsageError for options of caches.
    """
    require_plain(handle, spec, "tensorrt")
    require_positive(handle)
    fallbacks = write_graph(handle, folder, context, QdqOps, PROVIDER, reporter)
    write_server_files(handle, folder, FILES, context=context)
    return {"readers": ["deepseek", "onnxruntime", "onnxruntime-genai"], "dense_fallbacks": fallbacks}


def require_positive(handle: ModelHandle) -> None:
    """What no rounding helps stays dense: embedding and head, and inputs that are no multiple of TensorRT's smallest group."""
    for name, ref in handle.weights.items():
        if not ref.quantized or name.removesuffix(".weight") in (EMBEDDING, HEAD) or ref.shape[1] % BLOCKS[-1]:
            continue
        if reason := unfit_for_tensorrt(ref.read()):
            raise ModelUnsupported(
                "{model} cannot be carried to TensorRT as it is: {tensor}: {reason}.",
                hint="Round it anew, and deploy the result: deepseek quantize {model} --scheme int4-g128-pos",
                model=handle.name,
                tensor=name,
                reason=reason,
            )
        ref.release()


def unexpected(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    """As for the cpu target, but that every position has logits."""
    graph = {*unlike_graph(handle, folder, threads)} ^ {KEEP}
    return sorted(graph | misconfigured(folder, "NvTensorRtRtx") | absent(folder, FILES))


TARGET = Target(
    "tensorrt",
    emit_bundle,
    unexpected,
    read_back,
    open_folder,
    stand_in,
    reference=reference,
    unrun=("TensorRT",),
)
