"""A model as an estimate sees it: shapes from its config, and how its weights are stored, from headers or the config alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

from deepseek_cli.architectures import find_architecture
from deepseek_cli.errors import ModelCorrupt, ModelNotFound, ModelUnsupported, UsageError
from deepseek_cli.fields import read_json
from deepseek_cli.handle import Bundle, ModelHandle, open_any, read_config
from deepseek_cli.ops import Architecture, Weights
from deepseek_cli.ops.cost import Cost, count, count_draft
from deepseek_cli.profile import weights
from deepseek_cli.profile.operators import layer_of
from deepseek_cli.profile.weights import Stored
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.schemes import Scheme
from deepseek_cli.sources import HUB_ID, Located, canonical, locate
from deepseek_cli.sources.catalogue import FILE, Entry, by_ref
from deepseek_cli.store import Store

DENSE = {"float32": ("f32", 4), "float16": ("f16", 2), "bfloat16": ("bf16", 2)}
ALWAYS_WIDE = ".e_score_correction_bias"  # fewer bits would choose other experts
EXPERTS = ".experts."
MOST_EXPERTS = 1 << 17  # of all layers; DeepSeek-V3 has 15,104
MOST_PARAMETERS = 10**15


@dataclass(frozen=True, slots=True)
class Kind:
    """A weight, or all experts' weights of a layer that are alike, called as the first expert's."""

    name: str
    shape: tuple[int, ...]
    count: int

    @property
    def parameters(self) -> int:
        return self.count * prod(self.shape)


@dataclass(frozen=True)
class Sketch:
    """`weights` say how the model lies in its files; `runtime`, a key of RUNTIMES, would run it here, with a cache of `kv`."""

    name: str
    architecture: Architecture
    config: Any
    kinds: tuple[Kind, ...]
    dense: tuple[str, int]  # form and bytes of what is not quantized
    known: tuple[Stored, ...]  # from the files' headers; empty where there are none
    fp8: tuple[int, int] | None = None  # the block of an FP8 checkpoint that is known by its config alone
    runtime: str = "packed"
    kv: str = "fp16"

    @cached_property
    def stored(self) -> dict[str, Kind]:
        return {kind.name: kind for kind in self.kinds}

    @cached_property
    def parameters(self) -> int:
        return sum(kind.parameters for kind in self.kinds)

    @cached_property
    def costs(self) -> tuple[Cost, Cost]:
        """Of one token, and of its draft."""
        return self.count(), count_draft(self.architecture, self.config, self._shapes)

    def count(self, tokens: int = 1, past: int = 0, batch: int = 1) -> Cost:
        return count(self.architecture, self.config, tokens, past, batch, self._shapes)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {kind.name: kind.shape for kind in self.kinds}

    @cached_property
    def weights(self) -> tuple[Stored, ...]:
        return self.known or tuple(self._from_config())

    def in_scheme(self, scheme: str) -> tuple[Stored, ...]:
        """The weights as `deepseek quantize --scheme` would write them, embedding and protected weights as it keeps them."""
        plan = make_plan(self, QuantizeSpec(scheme=scheme), self.costs)
        return tuple(self._item(self.stored[i.name], i.scheme) for i in plan.items)

    def _item(self, kind: Kind, scheme: Scheme) -> Stored:
        if scheme.bits == 16 or len(kind.shape) != 2:
            return self._as_is(kind)
        return _stored(kind, str(scheme), scheme.bytes_of(kind.shape[0], kind.shape[1]))

    def _from_config(self) -> Iterator[Stored]:
        cost, _ = self.costs
        products = {*cost.linears} - {*cost.embeddings, "lm_head"}
        for kind in self.kinds:
            if self.fp8 and kind.name.removesuffix(".weight") in products:
                blocks = prod(-(-size // block) for size, block in zip(kind.shape, self.fp8, strict=True))
                yield _stored(kind, "fp8", prod(kind.shape) + 4 * blocks)
            else:
                yield self._as_is(kind)

    def _as_is(self, kind: Kind) -> Stored:
        form, width = DENSE["float32"] if kind.name.endswith(ALWAYS_WIDE) else self.dense
        return _stored(kind, form, width * prod(kind.shape))


def open_sketch(ref: str, store: Store, *, offline: bool = False, shapes_only: bool = False) -> Sketch:
    """What `ref` names: a config.json, a folder with or without weights, a GGUF file, a bundle, a model of catalogue or hub.

    With `shapes_only` no weights are looked at. Raises what `open_any` raises, ModelCorrupt for sizes beyond any model,
    ModelUnsupported where only the weights could say how they are stored, UsageError for a bundle with `shapes_only`.
    """
    try:
        located = _locate(ref, store)
    except ModelNotFound as missing:
        return _unpulled(ref, offline, shapes_only, missing)
    path = located.path
    bundle = bool(located.manifest and located.manifest.kind == "bundle")
    if bundle and shapes_only:
        raise UsageError("{ref} is a bundle: its weights have their scheme.", hint="Name the model it was made from.", ref=ref)
    if bundle or path.suffix == ".gguf" or (not shapes_only and path.is_dir() and any(path.glob("*.safetensors"))):
        return sketch_of(open_any(ref, store))
    file = path if path.is_file() else path / "config.json"
    return from_config(located.name, read_json(file), file, shapes_only=shapes_only)


def from_config(name: str, raw: Mapping[str, Any], file: Path, *, shapes_only: bool = False) -> Sketch:
    """By the fields of a config.json alone; `file` is where errors say that they come from."""
    architecture, config = read_config(file, raw)
    kinds = _checked_kinds(file, architecture, config)
    return Sketch(name, architecture, config, kinds, _dense(raw), (), None if shapes_only else _fp8(raw, file))


def of_entry(entry: Entry, *, shapes_only: bool = False) -> Sketch | None:
    """A model of the catalogue, None where its config is not known there. Raises ModelUnsupported for its architecture."""
    find_architecture(entry.architecture)
    name = entry.id.replace("/", "--")
    return from_config(name, entry.config, FILE, shapes_only=shapes_only) if entry.config else None


def sketch_of(model: ModelHandle | Bundle) -> Sketch:
    """Of an opened model: its weights exactly as they are stored, and what runs it here."""
    kinds = tuple(_kinds(model.architecture.weights(model.config)))
    make = partial(Sketch, model.name, model.architecture, model.config, kinds)
    if not isinstance(model, Bundle):
        return make(_dense(model.raw_config), tuple(weights.of_handle(model)), runtime="PyTorch", kv="fp32")
    stored, dense = tuple(weights.of_bundle(model)), DENSE["bfloat16"]
    if model.target != "cpu":
        return make(dense, stored)
    resolved = model.manifest.steps[-1]["resolved"] if model.manifest.steps else {}
    return make(dense, stored, runtime="ONNX Runtime", kv=str(resolved.get("kv", "fp32")))


def _locate(ref: str, store: Store) -> Located:
    path = Path(ref).expanduser()
    if path.is_file() and path.suffix == ".json":
        return Located(path, path.resolve().parent.name if path.name == "config.json" else path.stem, None, {"ref": ref})
    return locate(ref, store)


def _unpulled(ref: str, offline: bool, shapes_only: bool, missing: ModelNotFound) -> Sketch:
    if (entry := by_ref(ref)) and (sketch := of_entry(entry, shapes_only=shapes_only)):
        return sketch
    scheme, _, hub_id = canonical(ref).partition(":")
    if scheme != "hf" or not HUB_ID.fullmatch(hub_id):
        raise missing
    from deepseek_cli.sources.hub import fetch_config

    file = fetch_config(hub_id, offline)
    return from_config(hub_id.replace("/", "--"), read_json(file), file, shapes_only=shapes_only)


def _checked_kinds(file: Path, architecture: Architecture, config: Any) -> tuple[Kind, ...]:
    """Raises ModelCorrupt for sizes beyond any model."""
    gate = getattr(config, "gate", None)
    experts = len(config.sparse) * gate.experts if gate else 0
    if experts > MOST_EXPERTS:  # before anything walks over them
        raise ModelCorrupt(
            "{file} describes {count} experts, which no machine holds.",
            hint="Check num_hidden_layers and n_routed_experts.",
            file=file,
            count=f"{experts:,}",
        )
    kinds = tuple(_kinds(architecture.weights(config)))
    parameters = sum(kind.parameters for kind in kinds)
    if parameters > MOST_PARAMETERS:
        raise ModelCorrupt(
            "{file} describes {count} parameters, which no machine holds.",
            hint="Check its sizes.",
            file=file,
            count=f"{parameters:,}",
        )
    return kinds


def _kinds(every: Weights) -> Iterator[Kind]:
    counts: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, shape in every:
        before, experts, after = name.partition(EXPERTS)
        key = (f"{before}{experts}0.{after.partition('.')[2]}" if experts else name, shape)
        counts[key] = counts.get(key, 0) + 1
    return (Kind(name, shape, number) for (name, shape), number in counts.items())


def _stored(kind: Kind, form: str, size: int) -> Stored:
    return Stored(kind.name, layer_of(kind.name) or "other", form, kind.parameters, kind.count * size)


def _dense(raw: Mapping[str, Any]) -> tuple[str, int]:
    return DENSE.get(str(raw.get("torch_dtype") or raw.get("dtype")), DENSE["bfloat16"])


def _fp8(raw: Mapping[str, Any], file: Path) -> tuple[int, int] | None:
    """The block of FP8 weights, None for dense ones."""
    settings = raw.get("quantization_config") or raw.get("quantization")
    if not settings:
        return None
    block = settings.get("weight_block_size") if isinstance(settings, dict) and settings.get("quant_method") == "fp8" else None
    if not (isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block)):
        raise ModelUnsupported(
            "{file}: how its weights are quantized cannot be counted from the config alone.",
            hint="Pull the model, or say --scheme.",
            file=file,
        )
    return block[0], block[1]


def total(stored: Iterable[Stored]) -> int:
    return sum(s.size_bytes for s in stored)
