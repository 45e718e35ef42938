"""What bundles for the cuda and tensorrt targets share: a float16 graph, and a genai_config.json that names its provider."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import onnxruntime
from torch import Tensor

from deepseek_cli.deploy.cpu import GENAI_TYPES, genai_config, report, write_json
from deepseek_cli.deploy.readback import GraphWeights
from deepseek_cli.deploy.serving import absent
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import ModelUnsupported, UsageError
from deepseek_cli.fields import read_json
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.onnx_half import HalfOps
from deepseek_cli.ops.onnx_ops import emit
from deepseek_cli.quantize.folder import clean_config, copy_licence
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.onnx_session import GRAPH
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.tensors import TensorRef, dense

GENAI = "genai_config.json"
BESIDE = ("README.md", "config.json", "tokenizer.json", "tokenizer_config.json")
# What providers may be told in genai_config.json; others are refused as a model is loaded. After onnxruntime-genai 0.18,
# models/builder_config.py, and onnxruntime.ai/docs/execution-providers.
PROVIDER_OPTIONS = {
    "cuda": (
        "arena_extend_strategy",
        "cudnn_conv1d_pad_to_nc1d",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "device_id",
        "do_copy_in_default_stream",
        "enable_cuda_graph",
        "enable_skip_layer_norm_strict_mode",
        "gpu_mem_limit",
        "prefer_nhwc",
        "tunable_op_enable",
        "tunable_op_max_tuning_duration_ms",
        "tunable_op_tuning_enable",
        "use_ep_level_unified_stream",
        "use_tf32",
    ),
    "NvTensorRtRtx": ("enable_cuda_graph",),
}


def require_plain(handle: ModelHandle, spec: DeploySpec, target: str) -> None:
    """Raises ModelUnsupported for latent attention and for experts, UsageError for options that concern caches."""
    if handle.architecture.name not in GENAI_TYPES:
        raise ModelUnsupported(
            "{model}: graphs of the architecture {family} are not written for {target} yet.",
            hint="Deploy it with --target vllm.",
            model=handle.name,
            family=handle.architecture.name,
            target=target,
        )
    if (spec.kv, spec.latent_cache) != ("fp32", "plain"):
        raise UsageError("The cache of a {target} bundle is float16.", hint="Leave --kv and latent_cache out.", target=target)


def write_graph(
    handle: ModelHandle,
    folder: Path,
    context: int,
    interpreter: type[HalfOps],
    provider: dict[str, dict[str, str]],
    reporter: Reporter,
) -> list[str]:
    """Write graph, weights, tokenizer and configs into `folder`; the names of weights that became dense."""
    fallbacks = emit(handle.architecture, handle.config, handle.weights, folder / GRAPH, context, reporter, interpreter)
    report(fallbacks, reporter)
    open_tokenizer(handle.root).save(folder)
    copy_licence(handle.root, folder)
    write_json(folder / "config.json", clean_config(handle.raw_config))
    config = dict(genai_config(handle, context))
    config["model"]["decoder"]["session_options"]["provider_options"] = [provider]
    write_json(folder / GENAI, config)
    return [name for name, _ in fallbacks]


def stand_in() -> str:
    """What verifies these graphs here, whichever of its distributions, onnxruntime or onnxruntime-gpu, is installed."""
    return f"onnxruntime {onnxruntime.__version__} (CPU)"


def misconfigured(folder: Path, provider: str) -> set[str]:
    """Files that are missing, and what genai_config.json says that the provider would refuse."""
    missing = absent(folder, (*BESIDE, GENAI))
    if GENAI in missing:
        return missing
    found = read_json(folder / GENAI)["model"]["decoder"]["session_options"].get("provider_options", [])
    if [*map(list, found)] != [[provider]]:
        return {*missing, f"{GENAI}: provider_options"}
    return missing | {f"{GENAI}: {name}" for name in found[0][provider] if name not in PROVIDER_OPTIONS[provider]}


def reference(handle: ModelHandle, folder: Path) -> ModelHandle:
    """The model with the float16 values of what its graph holds dense."""
    narrow: dict[str, TensorRef] = {}
    for name, weight in GraphWeights(folder / GRAPH).each(handle):
        if isinstance(weight, Tensor) and name in handle.tensors:  # not the zeros of a linear without bias, fused with others
            narrow[name] = replace(handle.tensors[name], stored="f16", read=partial(dense, weight))
    return replace(handle, tensors={**handle.tensors, **narrow})
