"""The web target: a folder that transformers.js loads, and a page to chat on, for browsers and any file server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from deepseek_cli.deploy.cpu import report, write_json
from deepseek_cli.deploy.readback import GraphWeights
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target
from deepseek_cli.deploy.web_page import CHAT, FILES, write_page
from deepseek_cli.errors import ModelUnsupported, UsageError
from deepseek_cli.fields import read_json
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.onnx_graph import DataFiles
from deepseek_cli.ops.onnx_ops import Reader, emit
from deepseek_cli.quantize.folder import clean_config, copy_licence
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.node_packages import runtime
from deepseek_cli.runtime.onnx_session import load, session_options
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.web_session import graph_files, open_folder
from deepseek_cli.tensors import Weight

FAMILIES = ("llama", "qwen2", "qwen3")
MOST_FILE_BYTES = 1_900_000_000  # of one file: browsers hold no array of 2 GB
MOST_BYTES = 3_500_000_000  # of all: WebAssembly's memory ends at 4 GB
BATCH, PAST = "batch_size", "past_sequence_length"  # transformers.js takes every other name of a dimension for 0
READER = Reader(BATCH, PAST, keeps_scalar=True, gathers_blocks=False, files=DataFiles("_data", MOST_FILE_BYTES))
EXACT = 0  # accuracy_level: WebAssembly rounds no activations anyway, and WebGPU then computes the same
DTYPES = {4: ("q4", "_q4"), 8: ("q8", "_quantized"), 0: ("fp32", "")}  # by bits: how transformers.js names it and its file


def emit_bundle(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Write graph, weights, tokenizer, configs and the page into `folder`, for up to `context` tokens.

    Raises ModelUnsupported for what transformers.js does not know or browsers do not hold, UsageError for options that
    concern other caches.
    """
    _require_fit(handle, spec)
    dtype, suffix = DTYPES[_bits(handle)]
    graph = folder / "onnx" / f"model{suffix}.onnx"
    graph.parent.mkdir()
    fallbacks = emit(
        handle.architecture, handle.config, handle.weights, graph, context, reporter, reader=READER, accuracy_level=EXACT
    )
    report(fallbacks, reporter)
    open_tokenizer(handle.root).save(folder)
    count = len([*graph.parent.glob(f"{graph.name}_data*")])
    write_json(folder / "config.json", web_config(handle, dtype, graph.name, count))
    copy_licence(handle.root, folder)
    write_page(handle, folder, context, threads, reporter, tested=spec.verify != "structure")
    return {"readers": ["deepseek", "transformers.js"], "dense_fallbacks": [name for name, _ in fallbacks]}


def web_config(handle: ModelHandle, dtype: str, graph: str, data_files: int) -> dict[str, Any]:
    """No device: which one there is, a page knows and a folder does not."""
    settings = {"dtype": dtype, "use_external_data_format": {graph: data_files}}
    return clean_config(handle.raw_config) | {"transformers.js_config": settings}


def _require_fit(handle: ModelHandle, spec: DeploySpec) -> None:
    if (spec.kv, spec.latent_cache) != ("fp32", "plain"):
        raise UsageError("transformers.js keeps its own cache.", hint="Leave --kv and latent_cache out.")
    if handle.architecture.name not in FAMILIES:
        raise ModelUnsupported(
            "Web bundles hold {known}; {name} is {family}.",
            hint="Use --target cpu.",
            known=", ".join(FAMILIES),
            name=handle.name,
            family=handle.architecture.name,
        )
    sizes = {ref.name: ref.size_bytes if ref.quantized else 4 * ref.values for ref in handle.weights.values()}
    largest, size = max(sizes, key=sizes.__getitem__), sum(sizes.values())
    if sizes[largest] > MOST_FILE_BYTES:
        raise ModelUnsupported(
            "{tensor} would be {size} GB, and browsers take {most} GB at once.",
            hint="Make it smaller first: deepseek quantize {name} --int4. Or use --target cpu.",
            tensor=largest,
            size=f"{sizes[largest] / 1e9:.1f}",
            most=MOST_FILE_BYTES / 1e9,
            name=handle.name,
        )
    if size > MOST_BYTES:
        raise ModelUnsupported(
            "{name} would be {size} GB, and a browser's WebAssembly holds {most} GB of weights.",
            hint="Make it smaller first: deepseek quantize {name} --int4, or deepseek compress. Or use --target cpu.",
            name=handle.name,
            size=f"{size / 1e9:.1f}",
            most=MOST_BYTES / 1e9,
        )


def _bits(handle: ModelHandle) -> int:
    """What most linears have, which names the graph; 0 where they are dense."""
    forms = {"int3": 4, "int4": 4, "int8": 8}
    found = Counter(bits for ref in handle.weights.values() for form, bits in forms.items() if ref.stored.startswith(form))
    return found.most_common(1)[0][0] if found else 0


def unexpected(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    """ONNX Runtime loads the graph, whose inputs and outputs are those that transformers.js knows; configs say what they
    should, and all files are there, none larger than a browser takes."""
    graph, data = graph_files(folder)
    options = session_options(threads)
    options.add_session_config_entry("session.disable_prepacking", "1")
    load(graph, options)
    held = onnx.load(graph, load_external_data=False).graph
    found = {(value.name, *_dims(value)) for value in (*held.input, *held.output)}
    names = {name for name, *_ in _expected_values(handle) ^ found}
    dtype, suffix = DTYPES[_bits(handle)]
    config, wanted = read_json(folder / "config.json"), web_config(handle, dtype, f"model{suffix}.onnx", len(data))
    fields = {f"config.json: {key}" for key in config.keys() | wanted.keys() if config.get(key) != wanted.get(key)}
    large = {f"onnx/{file.name}" for file in (graph, *data) if file.stat().st_size > MOST_FILE_BYTES}
    beside = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", CHAT, *FILES}
    return sorted(names | fields | large | {name for name in beside if not (folder / name).is_file()})


def _dims(value: Any) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _expected_values(handle: ModelHandle) -> set[tuple[Any, ...]]:
    """Names and shapes of inputs and outputs."""
    config = handle.config
    kinds = [(f"{i}.{kind}", config.kv_heads, config.head_dim) for i in range(config.layers) for kind in ("key", "value")]
    return {
        ("input_ids", BATCH, "sequence"),
        ("attention_mask", BATCH, "total"),
        ("num_logits_to_keep",),
        ("logits", BATCH, "kept", config.vocabulary),
        *((f"past_key_values.{kind}", BATCH, heads, PAST, channels) for kind, heads, channels in kinds),
        *((f"present.{kind}", BATCH, heads, "reserved", channels) for kind, heads, channels in kinds),
    }


def read_back(handle: ModelHandle, folder: Path) -> Iterator[tuple[str, Weight]]:
    return GraphWeights(graph_files(folder)[0]).each(handle)


TARGET = Target("web", emit_bundle, unexpected, read_back, open_folder, runtime, unrun=("WebGPU",), slowness=10.0)
