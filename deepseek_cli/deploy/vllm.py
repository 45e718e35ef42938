"""The vllm target: a compressed-tensors folder that vLLM serves and transformers loads, and the files that start a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepseek_cli.deploy.cpu import report
from deepseek_cli.deploy.precision import NAMES
from deepseek_cli.deploy.serving import absent, write_server_files
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target
from deepseek_cli.deploy.vllm_layout import SCALES, Layout, make_layout
from deepseek_cli.errors import UsageError
from deepseek_cli.fields import read_json
from deepseek_cli.formats import quantized, safetensors
from deepseek_cli.formats.safetensors import Writer, read_folder
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize.folder import copy_licence
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.transformers_session import open_folder, runtime
from deepseek_cli.tensors import Weight

SERVER = ("vllm/compose.yaml", "vllm/deepseek-vllm.service")
README = "vllm/README.md"
BESIDE = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
MARLIN_INPUTS = 128  # whose multiples vLLM's kernel for NVIDIA GPUs takes; for others it looks for another kernel


def emit_bundle(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """The folder, and what starts a server for up to `context` tokens."""
    record = emit_folder(handle, spec, folder, context, threads, reporter)
    write_server_files(handle, folder, (README, *SERVER), context=context, inside="")
    return record


def emit_folder(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Write weights, configs and tokenizer into `folder`.

    One tensor is in memory at a time. Raises ModelUnsupported for codes that vLLM cannot take, UsageError for options that
    concern caches, which are vLLM's own.
    """
    if (spec.kv, spec.latent_cache) != ("fp32", "plain"):
        raise UsageError("vLLM keeps its own cache, which kv and latent_cache do not describe.", hint="Leave them out.")
    layout, refs = make_layout(handle), handle.stored
    if spec.precision and layout.schemes and SCALES[layout.dtype] != NAMES[spec.precision]:
        raise UsageError(
            "{model} has scales that {precision} does not hold.",
            hint="Leave --precision out.",
            model=handle.name,
            precision=spec.precision,
        )
    report(layout.fallbacks, reporter)
    _warn_of_sizes(handle, layout, reporter)
    total, done = sum(ref.size_bytes for ref in refs.values()), 0
    with Writer(folder, [part for name, ref in refs.items() for part in layout.planned(name, ref)]) as writer:
        for name, ref in refs.items():
            for part, tensor in layout.parts(name, ref.read()):
                writer.write(part, tensor, ref.release)
            ref.release()
            done += ref.size_bytes
            reporter.progress("write", done, total, "B")
    config = json.dumps(layout.config(handle), indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(f"{config}\n", encoding="utf-8")
    open_tokenizer(handle.root).save(folder)
    copy_licence(handle.root, folder)
    readers = ["deepseek", "transformers", "vllm"]
    if handle.architecture.name == "deepseek":  # which transformers lacks
        readers.remove("transformers")
    return {"readers": readers, "dense_fallbacks": [name for name, _ in layout.fallbacks]}


def _warn_of_sizes(handle: ModelHandle, layout: Layout, reporter: Reporter) -> None:
    names = [f"{stem}.weight" for stem in layout.schemes]
    odd = [name for name in names if handle.tensors[name].shape[1] % MARLIN_INPUTS]
    if odd:
        reporter.warn(
            "{count} of {all} packed weights, such as {tensor}, need another kernel than Marlin: it takes {size} inputs at once.",
            count=len(odd),
            all=len(names),
            tensor=odd[0],
            size=MARLIN_INPUTS,
        )


def unexpected(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    return sorted({*unlike(handle, folder, threads), *absent(folder, (README, *SERVER))})


def unlike(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    """Tensors by name, dtype and shape; config.json with its quantization_config; the tokenizer's files."""
    layout, found = make_layout(handle), read_folder(folder)
    planned = [part for name, ref in handle.stored.items() for part in layout.planned(name, ref)]
    wanted = {(part.name, safetensors.NAMES[part.dtype].lower(), part.shape) for part in planned}
    tensors = {name for name, _, _ in wanted ^ {(ref.name, ref.stored, ref.shape) for ref in found.values()}}
    config, expected = read_json(folder / "config.json"), layout.config(handle)
    fields = {f"config.json: {key}" for key in config.keys() | expected if config.get(key) != expected.get(key)}
    return sorted(tensors | fields | absent(folder, BESIDE))


def reopen(handle: ModelHandle, folder: Path) -> ModelHandle:
    """The same model with the weights that the folder holds."""
    file = folder / "config.json"
    return replace(handle, tensors=quantized.assemble(read_folder(folder), read_json(file), file))


def read_back(handle: ModelHandle, folder: Path) -> Iterator[tuple[str, Weight]]:
    for name, ref in reopen(handle, folder).weights.items():
        yield name, ref.read()
        ref.release()


FOLDER = Target("vllm", emit_folder, unlike, read_back, open_folder, runtime, reference=reopen)  # as other bundles hold it
TARGET = replace(FOLDER, emit=emit_bundle, unexpected=unexpected, unrun=("vllm",), precisions=("fp16", "bf16"))
