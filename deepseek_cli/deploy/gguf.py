"""The gguf target: one file for llama.cpp, Ollama and what else reads GGUF, its blocks holding our codes bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deepseek_cli.deploy.cpu import report, write_json
from deepseek_cli.deploy.gguf_metadata import metadata, rope_factors
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target, require
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats.gguf import read_gguf
from deepseek_cli.formats.gguf_model import FAMILIES, FREQUENCIES, INNER, OUTER, half_split_rows, open_gguf
from deepseek_cli.formats.gguf_writer import Entry, encode_value, file_type, kind_of, unfit, write_gguf
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize.folder import clean_config
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.gguf_session import MODEL, open_folder
from deepseek_cli.runtime.llamacpp import DISTRIBUTION
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.tensors import DENSE_DTYPES, TensorRef, Weight, take_rows

OUTER_NAMES = {ours: name for name, ours in OUTER.items()}
INNER_NAMES = {ours: name for name, ours in INNER.items()}
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
    report(fallbacks, reporter)
    write_gguf(folder / MODEL, header(handle, entries), entries)
    open_tokenizer(handle.root).save(folder)
    write_json(folder / "config.json", clean_config(handle.raw_config))
    model = "".join(c if c.isalnum() else "-" for c in handle.name.lower())
    (folder / "README.md").write_text(README.format(name=handle.name, file=MODEL, model=model), encoding="utf-8")
    return {"readers": ["deepseek", "llama.cpp", "ollama"], "dense_fallbacks": [name for name, _ in fallbacks]}


def plan(handle: ModelHandle) -> tuple[list[Entry], list[tuple[str, str]]]:
    """The tensors of the file, and the names of those whose codes it cannot hold, each with the reason."""
    if handle.architecture.name not in FAMILIES:
        raise ModelUnsupported(
            "{model}: GGUF files of the architecture {family} are not written yet.",
            hint="Written are {known}. Deploy it with --target cpu.",
            model=handle.name,
            family=handle.architecture.name,
            known=", ".join(FAMILIES),
        )
    fallbacks: list[tuple[str, str]] = []
    entries = [_entry(handle, name, ref, fallbacks) for name, ref in handle.weights.items()]
    if factors := rope_factors(handle):
        entries.append(Entry(FREQUENCIES, "f32", (len(factors),), lambda: torch.tensor(factors)))
    return entries, fallbacks


def header(handle: ModelHandle, entries: list[Entry]) -> dict[str, Any]:
    """The file's metadata; `general.architecture` stands first."""
    found = metadata(handle, rope_factors(handle))
    return found | {"general.file_type": file_type(entries), "general.quantization_version": 2}


def _entry(handle: ModelHandle, name: str, ref: TensorRef, fallbacks: list[tuple[str, str]]) -> Entry:
    kind = ref.stored if ref.stored in ("f16", "bf16") and len(ref.shape) > 1 else "f32"
    if ref.stored not in DENSE_DTYPES:
        weight = ref.read()
        if reason := unfit(weight):
            fallbacks.append((name, reason))
        else:
            kind = kind_of(weight)
        ref.release()
    heads = {"q_proj": handle.config.heads, "k_proj": handle.config.kv_heads}.get(name.split(".")[-2])
    if heads is None or handle.architecture.name != "llama":
        return Entry(gguf_name(name), kind, ref.shape, ref.read, ref.release)
    order = half_split_rows(ref.shape[0], heads).argsort()  # rotary pairs side by side
    return Entry(gguf_name(name), kind, ref.shape, lambda: take_rows(ref.read(), order), ref.release)


def gguf_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` to `blk.3.attn_q.weight`."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _, _, layer, part = name.split(".", 3)
    inner, _, kind = part.rpartition(".")
    return f"blk.{layer}.{INNER_NAMES[inner]}.{kind}"


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
    """Weights by on-disk name, the rows of q and k in halves again."""
    for name, ref in open_gguf(folder / MODEL)[1].items():
        yield name, ref.read()
        ref.release()


TARGET = Target("gguf", emit_bundle, unexpected, read_back, open_folder, lambda: require(DISTRIBUTION, "gguf"))
