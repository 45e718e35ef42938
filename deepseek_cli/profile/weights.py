"""A model's weights as they are stored: exact bytes, by form and by layer, from a handle's tensors or a bundle's graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from deepseek_cli.fields import read_json
from deepseek_cli.ops.token_rounding import PRODUCT
from deepseek_cli.profile.operators import layer_of

CODES = {
    "GatherBlockQuantized": (0,),
    "MatMulNBits": (1,),
    PRODUCT: (1,),
    "QMoE": (2, 5),
}  # which inputs hold an operator's codes
CORRECTIONS = (".correction_up", ".correction_down")  # endings of initializers: what is added to a weight, which counts by itself
ORDER = {"embedding": -1, "head": 1 << 20, "other": (1 << 20) + 1}


@dataclass(frozen=True, slots=True)
class Stored:
    name: str
    layer: str  # a number, or one of ORDER
    form: str  # "int4-g32", "f32", "q4_k"
    parameters: int  # 0 for scales, zero points and corrections
    size_bytes: int


def of_handle(handle: Any) -> list[Stored]:
    """The tensors that the architecture computes with, as they lie on disk, scales included."""
    return _of_refs(handle.weights.values())


def of_bundle(bundle: Any) -> list[Stored]:
    """What a bundle's files hold, whatever its target: an ONNX graph, a GGUF file, or safetensors."""
    from deepseek_cli.formats import quantized
    from deepseek_cli.formats.gguf_model import open_gguf
    from deepseek_cli.formats.headers import read_folder

    if bundle.target == "cpu":
        return of_graph(bundle.root / "model.onnx")[0]
    if (file := bundle.root / "model.gguf").is_file():
        return _of_refs(open_gguf(file)[1].values())
    config = bundle.root / "config.json"
    return _of_refs(quantized.assemble(read_folder(bundle.root), quantized.normalized(read_json(config)), config).values())


def _of_refs(refs: Iterable[Any]) -> list[Stored]:
    return [Stored(ref.name, layer_of(ref.name) or "other", ref.stored, prod(ref.shape), ref.size_bytes) for ref in refs]


def of_graph(path: Path) -> tuple[list[Stored], dict[str, str]]:
    """The initializers of an ONNX graph, each range of bytes once; and the layer of every node that has weights.

    An initializer is of the form of the operator that reads it: codes, scales and zero points of MatMulNBits or QMoE with
    4 bits and blocks of 32 are "int4-g32". Parameters are counted at the codes.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    readers: dict[str, tuple[str, int]] = {}  # initializer: its form, the codes' bits where it is those
    node_layers: dict[str, str] = {}
    for node in graph.node:
        numbers = {a.name.removeprefix("expert_weight_"): a.i for a in node.attribute}
        bits, group = numbers.get("bits", 0), numbers.get("block_size", 0)
        form = f"int{bits}-g{group}" if bits and group else ""
        if node.op_type == PRODUCT:  # which says nothing of itself
            form, bits = "int8-channel", 8
        codes = CODES.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if form and name:
                readers.setdefault(name, (form, bits if position in codes else 0))
            if layer := layer_of(name):
                tied_head = layer == "embedding" and not node.op_type.startswith("Gather")
                node_layers.setdefault(node.name, "head" if tied_head else layer)
    places: dict[tuple[str, str], Stored] = {}
    for tensor in graph.initializer:
        external = {entry.key: entry.value for entry in tensor.external_data}
        place = (external.get("location", ""), external.get("offset", tensor.name))
        if place not in places or tensor.name in readers:  # of two names for the same bytes, the one that is read
            places[place] = _stored(tensor, readers.get(tensor.name), int(external.get("length", 0)))
    return list(places.values()), node_layers


def _stored(tensor: Any, reader: tuple[str, int] | None, external_bytes: int) -> Stored:
    import onnx

    item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = prod(tensor.dims)
    size = external_bytes or count * item.itemsize
    layer = layer_of(tensor.name) or "other"
    if reader is None or (reader[1] == 0 and item.kind == "i"):  # an index, not a scale
        values = count if item.kind == "f" and not tensor.name.endswith(CORRECTIONS) else 0
        return Stored(tensor.name, layer, f"{item.kind}{item.itemsize * 8}", values, size)
    form, bits = reader
    return Stored(tensor.name, layer, form, size * 8 // bits if bits else 0, size)


def by_form(stored: Iterable[Stored]) -> list[dict[str, Any]]:
    """One row per form, largest first."""
    rows: dict[str, dict[str, Any]] = {}
    for s in stored:
        row = rows.setdefault(s.form, {"form": s.form, "tensors": 0, "parameters": 0, "bytes": 0})
        row["tensors"] += 1
        row["parameters"] += s.parameters
        row["bytes"] += s.size_bytes
    return sorted(rows.values(), key=lambda row: -row["bytes"])


def by_layer(stored: Iterable[Stored]) -> dict[str, int]:
    """Bytes per layer, in the order of the model."""
    rows: dict[str, int] = {}
    for s in stored:
        rows[s.layer] = rows.get(s.layer, 0) + s.size_bytes
    return dict(sorted(rows.items(), key=lambda item: ORDER.get(item[0], int(item[0]) if item[0].isdigit() else 0)))
