"""The openvino target: an IR folder that openvino_genai's pipelines load as it is, its constants our codes bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepseek_cli.deploy.cpu import report, write_json
from deepseek_cli.deploy.openvino_tokenizer import DETOKENIZER, TOKENIZER, difference, write_tokenizer
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target
from deepseek_cli.errors import UsageError
from deepseek_cli.fields import read_json
from deepseek_cli.formats.openvino import as_held, restore
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.openvino_graph import DTYPES
from deepseek_cli.ops.openvino_ops import emit
from deepseek_cli.quantize.folder import clean_config, copy_licence
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.openvino_session import GRAPH, open_folder, read_graph, runtime
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.tensors import TensorRef, Weight

CONFIG, README = "config.json", "README.md"
INPUTS = {"input_ids", "attention_mask", "position_ids", "beam_idx"}  # the names that openvino_genai binds
FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", README)
TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
HOW_TO_RUN = """# {name}

An OpenVINO model with its tokenizer, for Intel's and other x86-64 and Arm processors.
`deepseek.json` says what it was made from, and how far it was verified. In this folder:

```sh
pip install 'openvino-genai>=2026.4'
python -c "import openvino_genai as ov; print(ov.LLMPipeline('.', 'CPU').generate('Hello', max_new_tokens=64))"
deepseek run . "Hello"      # pip install 'deepseek-cli[openvino]'
```

OpenVINO computes in bfloat16 where the processor can, rounds activations to 8 bits, and so the cache;
with `LLMPipeline('.', 'CPU', EXECUTION_MODE_HINT='ACCURACY')` it does none of that.
"""


def emit_bundle(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Write the graph, its weights, the tokenizer in both forms, configs and README; the context is the model's own.

    Raises ModelUnsupported for what OpenVINO's operators do not compute and for a tokenizer that they do not follow, UsageError
    for options that do not concern it, MissingExtra.
    """
    if (spec.kv, spec.latent_cache) != ("fp32", "plain"):
        raise UsageError("OpenVINO chooses its own cache.", hint="Leave --kv and latent_cache out.")
    runtime()
    tokenizer = open_tokenizer(handle.root)
    write_tokenizer(tokenizer, folder, handle.name)
    fallbacks = emit(handle.architecture, handle.config, handle.weights, folder / GRAPH, reporter)
    report(fallbacks, reporter)
    tokenizer.save(folder)
    write_json(folder / CONFIG, clean_config(handle.raw_config))
    copy_licence(handle.root, folder)
    (folder / README).write_text(HOW_TO_RUN.format(name=handle.name), encoding="utf-8")
    return {"readers": ["deepseek", "openvino", "openvino-genai"], "dense_fallbacks": [name for name, _ in fallbacks]}


def unexpected(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    """Inputs, outputs and variables of the graph, fields of config.json, tokenizers that split text as the model's own does."""
    graph, config = read_graph(folder), handle.config
    states = {f"past_key_values.{layer}.{kind}" for layer in range(config.layers) for kind in ("key", "value")}
    found = {port.any_name for port in (*graph.inputs, *graph.outputs)} | {v.info.variable_id for v in graph.variables}
    wrong = found ^ (INPUTS | {"logits"} | states)
    said, wanted = read_json(folder / CONFIG), clean_config(handle.raw_config)
    wrong |= {f"{CONFIG}: {key}" for key in said.keys() | wanted if said.get(key) != wanted.get(key)}
    missing = {file for file in (*FILES, TOKENIZER, DETOKENIZER) if not (folder / file).is_file()}
    if not missing and difference(open_tokenizer(handle.root), folder):
        wrong.add(TOKENIZER)
    return sorted(wrong | missing)


def read_back(handle: ModelHandle, folder: Path) -> Iterator[tuple[str, Weight]]:
    """As OpenVINO itself reads the constants, which have our names."""
    graph = read_graph(folder)
    constants = {op.get_friendly_name(): op for op in graph.get_ops() if op.get_type_name() == "Constant"}
    for name, constant in constants.items():
        if not name.endswith((".weight", ".bias")):
            continue
        dtype, shape = constant.get_element_type().get_type_name(), tuple(constant.shape)
        if dtype in TORCH_DTYPES:
            yield name, raw(constant).view(TORCH_DTYPES[dtype]).view(shape)
            continue
        scale, zero = constants[f"{name}/scale"], constants.get(f"{name}/zero_point")
        scales = torch.from_numpy(np.array(scale.data))
        yield name, restore(raw(constant), dtype, shape, scales, None if zero is None else raw(zero))


def raw(constant: Any) -> Tensor:
    """The bytes of a constant, whose type NumPy may not have."""
    return torch.from_numpy(np.array(constant.data).reshape(-1).view(np.uint8))


def reference(handle: ModelHandle, folder: Path) -> ModelHandle:
    """The model with what the bundle rounds to float16 rounded."""

    def held(ref: TensorRef) -> TensorRef:
        return replace(ref, read=lambda: as_held(ref.read()))

    return replace(handle, tensors={name: held(ref) for name, ref in handle.tensors.items()})


TARGET = Target(
    "openvino", emit_bundle, unexpected, read_back, open_folder, runtime, reference=reference, precisions=("fp32", "fp16", "bf16")
)
