"""The one handle: where a model's tensors lie, its checked config, its lineage. Commands take it and give it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_cli.architectures import find_architecture
from deepseek_cli.errors import ModelCorrupt, ModelUnsupported, UsageError
from deepseek_cli.fields import Fields, read_json
from deepseek_cli.manifest import Manifest, fingerprint
from deepseek_cli.ops import Architecture, Weights
from deepseek_cli.sources import PICKLES, Located, locate
from deepseek_cli.store import Store

if TYPE_CHECKING:  # a bundle opens without torch, which would be most of the memory it runs in
    from deepseek_cli.refs import TensorRef


@dataclass(frozen=True, slots=True)
class ModelHandle:
    """`tensors` are lazy, as they lie on disk and keyed by their names; `raw_config` is only for writing a config.json again."""

    ref: str
    name: str
    root: Path
    architecture: Architecture
    config: Any
    tensors: Mapping[str, TensorRef]
    manifest: Manifest
    raw_config: Mapping[str, Any]

    @property
    def weights(self) -> dict[str, TensorRef]:
        """The tensors that the architecture computes with, in its order, their rows as its operators want them."""
        return self._ordered(self.architecture.weights(self.config))

    @property
    def draft_weights(self) -> dict[str, TensorRef]:
        """Those of the layer that drafts a token further; empty where the checkpoint has none."""
        wanted = [pair for pair in self.architecture.draft_weights(self.config) if pair[0] in self.tensors]
        return self._ordered(iter(wanted))

    @property
    def stored(self) -> dict[str, TensorRef]:
        """All of these as they lie on disk: what is quantized, and what a copy of the model must hold."""
        return {name: self.tensors[name] for name in (*self.weights, *self.draft_weights)}

    def _ordered(self, wanted: Weights) -> dict[str, TensorRef]:
        order = self.architecture.row_order(self.config)
        refs = ((name, self.tensors[name]) for name, _ in wanted)
        return {name: ref.with_rows(order[name]) if name in order else ref for name, ref in refs}

    @property
    def parameters(self) -> int:
        return sum(_count(shape) for name, shape in self.architecture.weights(self.config) if name in self.tensors)

    @property
    def size_bytes(self) -> int:
        return sum(ref.size_bytes for ref in self.weights.values())

    @property
    def digest(self) -> str:
        files = (
            [self.root]
            if self.root.is_file()
            else [f for f in self.root.iterdir() if f.suffix in (".safetensors", ".json") and f.name != "deepseek.json"]
        )
        return fingerprint(self.root, files)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `deploy` made for one target."""

    ref: str
    name: str
    root: Path
    target: str
    architecture: Architecture
    config: Any
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        return sum(f.stat().st_size for f in self.root.rglob("*") if f.is_file())


def open_any(ref: str, store: Store) -> ModelHandle | Bundle:
    """Open what `ref` names, checked against its architecture; no weights are read.

    Raises ModelNotFound, ModelCorrupt or ModelUnsupported, naming file and tensor.
    """
    located = locate(ref, store)
    if located.manifest and located.manifest.kind == "bundle":
        return _open_bundle(ref, located, located.manifest)
    return _open_model(ref, located)


def open_model(ref: str, store: Store) -> ModelHandle:
    """Like `open_any`, for commands that need weights. Raises UsageError for a bundle."""
    opened = open_any(ref, store)
    if isinstance(opened, Bundle):
        raise UsageError(
            "{ref} is a bundle for the target {target}.", hint="Name the model it was made from.", ref=ref, target=opened.target
        )
    return opened


def _open_bundle(ref: str, located: Located, manifest: Manifest) -> Bundle:
    architecture, config = read_config(located.path / "config.json", read_json(located.path / "config.json"))
    target = target_of(manifest) or "cpu"
    return Bundle(ref, located.name, located.path, target, architecture, config, manifest)


def target_of(manifest: Manifest | None) -> str | None:
    """What a bundle was made for; None where it is none."""
    if manifest is None or manifest.kind != "bundle":
        return None
    return str(manifest.steps[-1]["resolved"].get("target", "cpu")) if manifest.steps else "cpu"


def _open_model(ref: str, located: Located) -> ModelHandle:
    from deepseek_cli.formats import quantized

    if located.path.suffix == ".gguf":
        from deepseek_cli.formats.gguf_model import open_gguf

        file = located.path
        raw, tensors = open_gguf(file)
        architecture, config = read_config(file, raw)
    else:
        file = located.path / "config.json"
        raw = quantized.normalized(read_json(file))
        architecture, config = read_config(file, raw)  # first: a family that is refused may have tensors we cannot read
        tensors = quantized.assemble(_read_tensors(located.path, config.layers), raw, file)
    _check_weights(architecture.weights(config), tensors, file)
    _check_draft(architecture, config, tensors, file)
    manifest = located.manifest or Manifest(located.name, source=located.source)
    return ModelHandle(ref, located.name, located.path, architecture, config, tensors, manifest, raw)


def _read_tensors(folder: Path, layers: int) -> dict[str, TensorRef]:
    pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
    if pickles and not any(folder.glob("*.safetensors")):
        raise ModelUnsupported(
            "{folder} holds its weights as pickles ({files}), which can run code when they are opened.",
            hint="Use a safetensors or GGUF version of the model.",
            folder=folder,
            files=", ".join(pickles[:3]),
        )
    from deepseek_cli.formats.headers import read_folder

    return read_folder(folder, layers)


def read_config(file: Path, raw: Mapping[str, Any]) -> tuple[Architecture, Any]:
    """The family that a config.json names, and its config, checked."""
    fields = Fields(raw, file)
    architecture = find_architecture(fields.text("model_type"))
    return architecture, architecture.read_config(fields)


def _check_weights(wanted: Weights, tensors: Mapping[str, TensorRef], file: Path) -> None:
    for name, shape in wanted:
        ref = tensors.get(name)
        if ref is None:
            raise ModelCorrupt("{file}: tensor {tensor} is missing.", hint="Pull the model again.", file=file, tensor=name)
        if ref.shape != shape:
            raise ModelCorrupt(
                "{file}: tensor {tensor} has shape {found}, its config wants {wanted}.",
                hint="Pull the model again, or check config.json.",
                file=file,
                tensor=name,
                found=list(ref.shape),
                wanted=list(shape),
            )


def _check_draft(architecture: Architecture, config: Any, tensors: Mapping[str, TensorRef], file: Path) -> None:
    """Raises ModelCorrupt for a drafting layer that is damaged, or not where the config says. It may be left out."""
    wanted = dict(architecture.draft_weights(config))
    if any(name in tensors for name in wanted):
        _check_weights(iter(wanted.items()), tensors, file)
    known = {*wanted, *(name for name, _ in architecture.weights(config))}
    stray = next((name for name in tensors if name.endswith(".eh_proj.weight") and name not in known), None)
    if stray:
        raise ModelCorrupt(
            "{file}: tensor {tensor} belongs to a drafting layer, and the config has none there (num_nextn_predict_layers).",
            hint="Pull the model again, or check config.json.",
            file=file,
            tensor=stray,
        )


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
