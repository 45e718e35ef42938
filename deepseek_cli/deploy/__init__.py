"""Where a model can be taken, by the name that `--target` takes. Others come through the entry point group `deepseek.targets`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from deepseek_cli import plugins
from deepseek_cli.errors import UsageError

if TYPE_CHECKING:
    from deepseek_cli.deploy.target import Target


@dataclass(frozen=True, slots=True)
class Listed:
    """`path` names a `deploy.target.Target`; `carries` are the schemes whose codes it holds bit for bit.

    `runtime` is the distribution that runs its bundles here, and `extra` what brings it, where that is optional. For one that
    is no distribution it names a function that gives `verifier`.
    """

    path: str
    help: str
    carries: str
    runtime: str
    extra: str = ""

    @property
    def verifier(self) -> str:
        """Name and version of the runtime, or how to install it."""
        if ":" in self.runtime:
            return str(plugins.load(self.runtime)())
        try:
            return f"{self.runtime} {metadata.version(self.runtime)}"
        except metadata.PackageNotFoundError:
            return f"pip install 'deepseek-cli[{self.extra}]'"


TARGETS = {
    "cpu": Listed(
        "deepseek_cli.deploy.cpu:TARGET",
        "ONNX for ONNX Runtime and onnxruntime-genai, on any CPU",
        "int4, int8, with or without zero points",
        "onnxruntime",
    ),
    "cuda": Listed(
        "deepseek_cli.deploy.cuda:TARGET",
        "float16 ONNX for ONNX Runtime on NVIDIA GPUs, and a folder for vLLM",
        "int4, int8; in ONNX with zero points, too",
        "onnxruntime",
        "cuda",
    ),
    "gguf": Listed(
        "deepseek_cli.deploy.gguf:TARGET",
        "a GGUF file for llama.cpp and Ollama, on any CPU or GPU",
        "int4 with or without zero points, int8, ggml's own blocks",
        "xllamacpp",
        "gguf",
    ),
    "metal": Listed(
        "deepseek_cli.deploy.metal:TARGET",
        "MLX safetensors for mlx-lm, on Macs with Apple silicon",
        "int4, int8, with or without zero points",
        "mlx-lm",
        "metal",
    ),
    "mobile": Listed(
        "deepseek_cli.deploy.mobile:TARGET",
        "an ExecuTorch program and an ONNX graph, for phones",
        "int4 and int8 with positive scales (-pos)",
        "executorch",
        "mobile",
    ),
    "openvino": Listed(
        "deepseek_cli.deploy.openvino:TARGET",
        "an OpenVINO model with its tokenizer, for openvino_genai on any CPU",
        "int4, int8, with or without zero points",
        "openvino",
        "openvino",
    ),
    "rocm": Listed(
        "deepseek_cli.deploy.rocm:TARGET",
        "a folder for vLLM and a GGUF file for llama.cpp, on AMD GPUs",
        "int4, int8",
        "transformers",
        "rocm",
    ),
    "tensorrt": Listed(
        "deepseek_cli.deploy.tensorrt:TARGET",
        "float16 ONNX for TensorRT's provider for RTX cards",
        "int4 in groups of 64 or 128, its scales positive",
        "onnxruntime",
    ),
    "vllm": Listed(
        "deepseek_cli.deploy.vllm:TARGET",
        "a compressed-tensors folder for vLLM and transformers",
        "int4, int8",
        "transformers",
        "vllm",
    ),
    "web": Listed(
        "deepseek_cli.deploy.web:TARGET",
        "a folder for transformers.js with a page to chat on, in browsers",
        "int4, int8, with or without zero points",
        "deepseek_cli.runtime.node_packages:verifier",
    ),
}


def find_target(name: str) -> Target:
    """Raises UsageError, which lists the known ones."""
    listed = TARGETS.get(name)
    found: Target | None = plugins.load(listed.path) if listed else plugins.find("deepseek.targets", name)
    if found is None:
        raise UsageError(
            "There is no target named {name!r}.",
            hint="Targets are: {known}.",
            name=name,
            known=", ".join(["auto", *TARGETS]),
        )
    return found
