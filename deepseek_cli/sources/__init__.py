"""From a name to files on disk: a path, a store name, an alias, `hf:ORG/NAME`, `ms:ORG/NAME`, `pkg:PACKAGE`, `nano`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelNotFound, ModelUnsupported, UsageError
from deepseek_cli.manifest import Manifest, read_manifest
from deepseek_cli.sources.catalogue import by_alias, nearest
from deepseek_cli.sources.embedded import embedded_folder
from deepseek_cli.sources.names import HUB_ID as HUB_ID
from deepseek_cli.store import Store


@dataclass(frozen=True, slots=True)
class Located:
    """`path` is a folder or a GGUF file."""

    path: Path
    name: str
    manifest: Manifest | None
    source: dict[str, Any] = field(default_factory=dict)


def canonical(ref: str) -> str:
    """One spelling per origin: an alias is its `hf:ORG/NAME`, and so is `ORG/NAME`, unless a path of that name exists."""
    scheme, _, rest = ref.partition(":")
    if (scheme in ("hf", "ms", "pkg") and rest) or Path(ref).expanduser().exists():
        return ref
    if entry := by_alias(ref):
        return entry.ref
    return f"hf:{ref}" if HUB_ID.fullmatch(ref) else ref


def locate(ref: str, store: Store) -> Located:
    """Find the files of something that is on this machine already.

    Raises ModelNotFound with the command that fetches it, UsageError for a name that could be several.
    """
    scheme, _, rest = ref.partition(":")
    if scheme in ("hf", "ms") and rest:
        return _pulled(ref, rest, store, ref)
    if scheme == "pkg" and rest:
        from deepseek_cli.sources.package import model_file

        path = model_file(rest)
        return Located(path, name_of(path), None, {"ref": ref})
    path, folder = Path(ref).expanduser(), embedded_folder(ref)
    if path.exists() and not folder:
        return from_path(path, ref)
    if found := store.find(ref):
        return _entry(*found)
    if folder:
        return Located(folder, name_of(folder), None, {"ref": name_of(folder)})
    if entry := by_alias(ref):
        return _pulled(entry.ref, entry.id, store, ref)
    if HUB_ID.fullmatch(ref):
        return _pulled(f"hf:{ref}", ref, store, f"hf:{ref}")
    close = nearest(ref, (manifest.name for _, manifest in store.entries()))
    raise ModelNotFound(
        "There is no model {ref}, neither as a path nor in the store nor in the catalogue.",
        hint="Did you mean {close}?" if close else "See: deepseek list, deepseek search",
        ref=ref,
        close=close,
    )


def names_a_model(text: str, store: Store) -> bool:
    """Whether `locate` would look for a model of this name, or it is only words."""
    scheme, _, rest = text.partition(":")
    known = (scheme in ("hf", "ms", "pkg") and rest and " " not in rest) or embedded_folder(text) or by_alias(text)
    return bool(known or Path(text).expanduser().exists() or HUB_ID.fullmatch(text) or store.find(text))


def from_path(path: Path, ref: str) -> Located:
    if path.is_dir():
        manifest = read_manifest(path)
        if manifest and manifest.root:
            return _entry(path, manifest)
        source = manifest.source if manifest else {"ref": ref}
        return Located(path, manifest.name if manifest else name_of(path.resolve()), manifest, source)
    if path.suffix == ".gguf":
        return Located(path, name_of(path), None, {"ref": ref})
    if path.suffix in PICKLES:
        raise ModelUnsupported(
            "{path} is a pickle, which can run code when it is opened.",
            hint="Use a safetensors or GGUF version of the model.",
            path=path,
        )
    raise ModelUnsupported("{path} is neither a model folder nor a GGUF file.", hint="Name a folder or a .gguf file.", path=path)


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def _entry(folder: Path, manifest: Manifest) -> Located:
    if manifest.kind == "damaged":
        read_manifest(folder)  # says what is wrong with it
    path = Path(manifest.root) if manifest.root else folder
    if not path.exists():
        raise ModelNotFound(
            "{name} points at {path}, which is gone.",
            hint="Pull it again: deepseek pull {ref}",
            name=manifest.name,
            path=path,
            ref=manifest.source.get("ref"),
        )
    return Located(path, manifest.name, manifest, manifest.source)


def _pulled(ref: str, hub_id: str, store: Store, named: str) -> Located:
    if not HUB_ID.fullmatch(hub_id):
        raise UsageError(
            "{ref} is not of the form ORG/NAME.", hint="For example: hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", ref=ref
        )
    for folder, manifest in reversed(store.entries()):
        if manifest.source.get("ref") == ref and not manifest.parent:
            return _entry(folder, manifest)
    raise ModelNotFound("{ref} is not on this machine.", hint="Fetch it: deepseek pull {named}", ref=ref, named=named)


def name_of(path: Path) -> str:
    """A store name from a file or folder: `SmolLM2-135M-Instruct.Q4_1.gguf` is SmolLM2-135M-Instruct."""
    name = re.sub(r"[.-](?:Q\d\w*|I?Q\d\w*|F16|F32|BF16)$", "", path.stem, flags=re.I) if path.suffix == ".gguf" else path.name
    return re.sub(r"[^\w.-]+", "-", name)
