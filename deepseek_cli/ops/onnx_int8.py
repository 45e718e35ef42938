"""A bundle's graph for many tokens at once: products in int8, one scale a row of weights and one a token.

    y[t, o] = (sum over i of x8[t, i] * w8[o, i]) * step[o] * max |x[t]| / 127,    x8 = round(127 * x / max |x[t]|)

MatMulNBits keeps a scale for every few dozen inputs, which costs it most of its time as soon as there are many tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.ops.token_rounding import PRODUCT

DATA = "int8.data"
MOST = 127  # the greatest code, of either sign
PAGE_BYTES = 4096
ROWS = 1024  # of a weight that are turned at once
TINY = 1e-30  # a token of zeros is not divided by zero
ZEROS, BIAS = 3, 5  # inputs of MatMulNBits
MICROSOFT = "com.microsoft"


def write_int8(source: Path, folder: Path, *, head: bool) -> Path:
    """The graph file in `folder`, whose data file beside it holds all that it needs of the bundle's graph `source`; without the
    `head` it only fills the cache.

    Raises ModelUnsupported where there is no product to turn.
    """
    model = onnx.load(source, load_external_data=False)
    weights = Weights(model, source.parent)
    with (folder / DATA).open("wb") as data:
        store = Store(model.graph, data, weights)
        nodes = list(model.graph.node if head else _without_head(model.graph))
        if any(node.op_type == PRODUCT for node in nodes):
            raise ModelUnsupported(
                "{file} multiplies in int8 as it is.", hint="Leave --fast-prefill or batch_int8 out.", file=source
            )
        turned = [new for node in nodes for new in (_product(store, node) if _turns(node, weights) else [node])]
        if len(turned) == len(nodes):
            raise ModelUnsupported(
                "{file} has no quantized products to make faster.", hint="Leave --fast-prefill or batch_int8 out.", file=source
            )
        store.keep({name for node in turned for name in _reads(node)})
    del model.graph.node[:]
    model.graph.node.extend(turned)
    path = folder / source.name
    onnx.save(model, path)
    return path


class Weights:
    """A graph's initializers as arrays, mapped where they lie in a file."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self.protos = {tensor.name: tensor for tensor in model.graph.initializer}
        places = {entry.value for t in self.protos.values() for entry in t.external_data if entry.key == "location"}
        self.files = {place: np.memmap(folder / place, np.uint8, "r") for place in places}

    def read(self, name: str) -> np.ndarray:
        proto = self.protos[name]
        if proto.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(proto)
        where = {entry.key: entry.value for entry in proto.external_data}
        start, size = int(where["offset"]), int(where["length"])
        dtype = helper.tensor_dtype_to_np_dtype(proto.data_type)
        return self.files[where["location"]][start : start + size].view(dtype).reshape(tuple(proto.dims))


class Store:
    """The new graph's initializers, in a data file of its own, and the rows that are rounded already."""

    def __init__(self, graph: onnx.GraphProto, data: Any, weights: Weights) -> None:
        self.graph, self.data, self.weights = graph, data, weights
        self.rounded: dict[str, tuple[str, str]] = {}
        self.made: list[TensorProto] = []
        self.step = self.add("prefill.step", np.float32(1 / MOST))
        self.middle = self.add("prefill.middle", np.uint8(MOST + 1))
        self.channels = self.add("prefill.channels", np.array([-1]))
        self.tiny = self.add("prefill.tiny", np.float32(TINY))

    def add(self, name: str, array: Any) -> str:
        array = np.asarray(array)
        if array.nbytes < PAGE_BYTES:
            self.made.append(numpy_helper.from_array(array, name))
            return name
        self.data.write(bytes(-self.data.tell() % PAGE_BYTES))
        place = {"location": DATA, "offset": self.data.tell(), "length": array.nbytes}
        self.data.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        proto = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        self.made.append(proto)
        return name

    def keep(self, names: set[str]) -> None:
        """What was made, and of the bundle's own initializers those named; an input's default goes with its input."""
        for name in sorted(names & self.weights.protos.keys()):
            self.add(name, self.weights.read(name))
        inputs = [value for value in self.graph.input if value.name in names]
        for field, kept in ((self.graph.input, inputs), (self.graph.initializer, self.made)):
            del field[:]
            field.extend(kept)


def _without_head(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes that the cache's new rows come from; the head, and what the last layer does behind its keys, are for logits."""
    caches = [value for value in graph.output if value.name.startswith("present")]
    del graph.output[:]
    graph.output.extend(caches)
    needed, kept = {value.name for value in caches}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_reads(node))
    return reversed(kept)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of a node's inputs, those within its branches included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
        yield from (value.name for value in attribute.g.output)


def _turns(node: onnx.NodeProto, weights: Weights) -> bool:
    return node.op_type == "MatMulNBits" and node.input[1] in weights.protos


def _product(store: Store, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """What MatMulNBits does, in int8."""
    x, name = node.input[0], node.output[0]
    if x not in store.rounded:
        yield from _rounding(store, x)
    rounded, most = store.rounded[x]
    codes, step = _codes(node, store.weights)
    inputs = [rounded, store.add(f"{name}.int8", codes), store.step, store.add(f"{name}.step", step), store.middle]
    yield helper.make_node("MatMulIntegerToFloat", inputs, [f"{name}.unit"], node.name, domain=MICROSOFT)
    bias = node.input[BIAS] if len(node.input) > BIAS else ""
    scaled = f"{name}.scaled" if bias else name
    yield helper.make_node("Mul", [f"{name}.unit", most], [scaled])
    if bias:
        yield helper.make_node("Add", [scaled, bias], [name])


def _rounding(store: Store, x: str) -> Iterator[onnx.NodeProto]:
    """Each token's values by its own greatest: one outlying token would leave the others of a prompt a few steps."""
    most, codes = f"{x}.most", f"{x}.codes8"
    yield helper.make_node("Abs", [x], [f"{x}.size"])
    yield helper.make_node("ReduceMax", [f"{x}.size", store.channels], [f"{x}.greatest"], keepdims=1)
    yield helper.make_node("Max", [f"{x}.greatest", store.tiny], [most])
    yield helper.make_node("Div", [x, most], [f"{x}.unit8"])
    yield helper.make_node("QuantizeLinear", [f"{x}.unit8", store.step, store.middle], [codes])
    store.rounded[x] = codes, most


def _codes(node: onnx.NodeProto, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """int8 [in, out] and float32 [out], rounded anew from the values that the bundle's codes stand for."""
    inputs, outputs = (next(a.i for a in node.attribute if a.name == name) for name in ("K", "N"))
    codes, step = np.empty((inputs, outputs), np.int8), np.empty(outputs, np.float32)
    for start in range(0, outputs, ROWS):
        rows = slice(start, start + ROWS)
        values = _values(node, weights, rows)[:, :inputs]
        step[rows] = np.maximum(np.abs(values).max(axis=1), TINY) / MOST
        codes[:, rows] = np.rint(values / step[rows, None]).T
    return codes, step


def _values(node: onnx.NodeProto, weights: Weights, rows: slice) -> np.ndarray:
    """float32 [rows, blocks * block]"""
    bits = next(a.i for a in node.attribute if a.name == "bits")
    packed, held = weights.read(node.input[1])[rows], weights.read(node.input[2])
    scale = held.reshape(-1, packed.shape[1])[rows].astype(np.float32)
    codes = _unpack(packed, bits).reshape(*scale.shape, -1).astype(np.float32)
    middle: Any = 2 ** (bits - 1)
    if len(node.input) > ZEROS and node.input[ZEROS]:
        zeros = weights.read(node.input[ZEROS]).reshape(len(held.reshape(-1, packed.shape[1])), -1)[rows]
        middle = _unpack(zeros, bits)[:, : scale.shape[1], None]
    return ((codes - middle) * scale[..., None]).reshape(len(packed), -1)


def _unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Codes as bytes, the least significant first."""
    if bits == 8:
        return packed
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[..., None] >> shifts) & (2**bits - 1)).reshape(*packed.shape[:-1], -1)
