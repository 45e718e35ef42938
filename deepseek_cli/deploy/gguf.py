"""The gguf target: one file for llama.cpp, Ollama and what else reads GGUF, its blocks holding our codes bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deepseek_cli.deploy.cpu import report, write_json
from deepseek_cli.deploy.gguf_deepseek import refuse_variants
from deepseek_cli.deploy.gguf_layout import left_out, pieces, read_pieces
from deepseek_cli.deploy.gguf_metadata import metadata
from deepseek_cli.deploy.gguf_rope import Rotation, rotation
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target, require
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats.gguf import read_gguf
from deepseek_cli.formats.gguf_model import FREQUENCIES
from deepseek_cli.formats.gguf_writer import Entry, encode_value, file_type, write_gguf
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize.folder import clean_config
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.gguf_session import MODEL, open_folder
from deepseek_cli.runtime.llamacpp import DISTRIBUTION
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.tensors import Weight

ARCHITECTURES = {  # llama.cpp's, by ours
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "deepseek": "deepseek",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "deepseek_v32": "deepseek2",  # which attends to all tokens, as its indexer does as long as there are no more than its top_k
}
README = """# {name}

`{file}` runs in llama.cpp and what is built on it:

    llama-cli -m {file}
    llama-server -m {file}
    echo "FROM ./{file}" > Modelfile && ollama create {model} -f Modelfile

`deepseek run .` does, too. `deepseek.json` says what it was made from, and how far it was verified.
"""


def emit_bundle(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Write the file, tokenizer, config and README into `folder`.

    Raises ModelUnsupported for an architecture, a rotary scaling or a tokenizer that its readers do not know.
    """
    entries, fallbacks = plan(handle)
    found = header(handle, entries)
    report(fallbacks, reporter)
    write_gguf(folder / MODEL, found, entries)
    open_tokenizer(handle.root).save(folder)
    write_json(folder / "config.json", clean_config(handle.raw_config))
    model = "".join(c if c.isalnum() else "-" for c in handle.name.lower())
    (folder / "README.md").write_text(README.format(name=handle.name, file=MODEL, model=model), encoding="utf-8")
    return {"readers": ["deepseek", "llama.cpp", "ollama"], "dense_fallbacks": [name for name, _ in fallbacks]}


def plan(handle: ModelHandle) -> tuple[list[Entry], list[tuple[str, str]]]:
    """The tensors of the file, and the names of those whose codes it cannot hold, each with the reason.

    Raises ModelUnsupported for what llama.cpp does not compute.
    """
    if handle.architecture.name not in ARCHITECTURES:
        raise ModelUnsupported(
            "{model}: GGUF files of the architecture {family} are not written yet.",
            hint="Written are {known}. Deploy it with --target cpu.",
            model=handle.name,
            family=handle.architecture.name,
            known=", ".join(ARCHITECTURES),
        )
    refuse_variants(handle)
    fallbacks: list[tuple[str, str]] = []
    entries = [piece.entry(fallbacks) for piece in pieces(handle)]
    if factors := _rotation(handle).factors:
        entries.append(Entry(FREQUENCIES, "f32", (len(factors),), lambda: [torch.tensor(factors)]))
    return entries, list(dict.fromkeys(fallbacks))


def header(handle: ModelHandle, entries: list[Entry]) -> dict[str, Any]:
    """The file's metadata; `general.architecture` stands first."""
    index = getattr(handle.config, "index", None)
    context = min(handle.config.context, index.top_k) if index else handle.config.context
    found = metadata(handle, ARCHITECTURES[handle.architecture.name], context, _rotation(handle).keys)
    return found | {"general.file_type": file_type(entries), "general.quantization_version": 2}


def _rotation(handle: ModelHandle) -> Rotation:
    return rotation(handle, ARCHITECTURES[handle.architecture.name])


def unexpected(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    """Metadata and the table of tensors are those of the model."""
    file = read_gguf(folder / MODEL)
    entries, _ = plan(handle)
    keys = {key: encode_value(value) for key, value in header(handle, entries).items()}
    found = {key: encode_value(value) for key, value in file.metadata.items()}
    wanted = {(entry.name, entry.kind, entry.shape) for entry in entries}
    tensors = wanted ^ {(tensor.name, tensor.stored, tensor.shape) for tensor in file.tensors.values()}
    return sorted({key for key, _ in keys.items() ^ found.items()} | {name for name, _, _ in tensors})


def read_back(handle: ModelHandle, folder: Path) -> Iterator[tuple[str, Weight]]:
    return read_pieces(handle, read_gguf(folder / MODEL))


TARGET = Target(
    "gguf",
    emit_bundle,
    unexpected,
    read_back,
    open_folder,
    lambda: require(DISTRIBUTION, "gguf"),
    left_out,
    precisions=("fp32", "fp16", "bf16"),
)
