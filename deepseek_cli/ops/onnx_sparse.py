"""Sparse attention in a bundle's graph: one token attends to some pages of keys, as in `torch_sparse`.

The bundle's file stays as it is. As a session loads it, each layer's attention over its cache becomes one branch of two; the
other gathers pages. So weights are held once, and both work on the same cache. What a layer cannot know (whether to choose, how
many pages, which always) the session says by input, and it keeps the pages' bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper

from deepseek_cli.errors import UsageError
from deepseek_cli.ops.pages import PAGE

IR_VERSION, OPSET = 12, 24  # of TensorScatter
MICROSOFT = "com.microsoft"
CONTRIBUTED = {"FusedMatMul", "RotaryEmbedding"}  # by ONNX Runtime, beyond ONNX itself
INT64_MAX = (1 << 63) - 1
ROTATED = 9  # inputs of a GroupQueryAttention that turns queries and keys
Shape = list[str | int | None]
INPUTS: dict[str, tuple[int, Shape]] = {  # what all layers share
    "sparse": (TensorProto.BOOL, [1]),  # whether pages are chosen, which only one new token can do
    "position": (TensorProto.INT64, [1]),  # of that token
    "choose": (TensorProto.INT64, [1]),  # pages, beside those always attended to
    "offsets": (TensorProto.INT64, ["kv_heads", 1]),  # of each head's second page, counted over all heads
    "always": (TensorProto.INT64, ["kv_heads", "always"]),  # pages, in that count
    "unused": (TensorProto.FLOAT, ["keys"]),  # -inf for gathered keys that have not come yet, else 0
}


def choose_pages(model: ModelProto) -> None:
    """Rewrite the attention of every layer, in place. Each gets an input `bounds.{layer}`.

    Raises UsageError where latents are cached for GroupQueryAttention, as keys and as values, and where keys are narrow.
    """
    graph, layer = model.graph, 0
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.input}
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    graph.input.extend(helper.make_tensor_value_info(name, *kind) for name, kind in INPUTS.items())
    constants: dict[str, TensorProto] = {}
    for node in graph.node:
        if node.op_type == "GroupQueryAttention":
            if len(node.input) < ROTATED:
                raise UsageError(
                    "Bundles made with latent_cache=gqa attend to every key.",
                    hint="Leave --sparse-attention out, or deploy the model without latent_cache=gqa.",
                )
            if types[node.input[3]] != TensorProto.FLOAT:
                raise UsageError(
                    "Bundles made with --kv fp16 or int8 attend to every key.",
                    hint="Leave --sparse-attention out, or deploy the model without --kv.",
                )
            kv_heads, _, channels = shapes[node.input[3]][1:]
            branch = Branch(node.name, kv_heads, channels, f"bounds.{layer}", constants)
            node.CopyFrom(either(branch, branch.grouped(node), [node]))
        elif node.op_type == "If":  # latents, of which one token's attention is the first branch
            nodes = next(a.g for a in node.attribute if a.name == "then_branch").node
            first = next(i for i, inner in enumerate(nodes) if inner.op_type == "FusedMatMul")  # then Softmax, MatMul
            branch = Branch(nodes[first].name, 1, shapes[f"past_key_values.{layer}.latent"][2], f"bounds.{layer}", constants)
            choice = either(branch, branch.latent(nodes[first]), nodes[first : first + 3])
            nodes[first].CopyFrom(choice)
            del nodes[first + 1 : first + 3]
        else:
            continue
        graph.input.append(helper.make_tensor_value_info(branch.bounds, TensorProto.FLOAT, branch.bounds_shape))
        layer += 1
    graph.initializer.extend(constants.values())
    model.ir_version = max(model.ir_version, IR_VERSION)
    next(opset for opset in model.opset_import if not opset.domain).version = OPSET


def either(branch: Branch, outputs: Sequence[str], dense: Sequence[NodeProto]) -> NodeProto:
    """An `If` in place of the nodes `dense`, with the outputs of the last of them."""
    names, dense = list(dense[-1].output), list(dense)
    last = NodeProto()
    last.CopyFrom(dense[-1])
    last.output[:] = [f"{name}.dense" for name in names]
    parts = (("sparse", branch.nodes, outputs), ("dense", [*dense[:-1], last], last.output))
    graphs = [
        helper.make_graph(nodes, f"{branch.name}.{kind}", [], [helper.make_empty_tensor_value_info(name) for name in given])
        for kind, nodes, given in parts
    ]
    return helper.make_node("If", ["sparse"], names, branch.name, then_branch=graphs[0], else_branch=graphs[1])


class Branch:
    """One layer's attention of one token over the pages it chooses. Constants stand in the graph around it."""

    def __init__(self, name: str, kv_heads: int, channels: int, bounds: str, constants: dict[str, TensorProto]) -> None:
        self.name, self.kv_heads, self.channels = f"{name}.choice", kv_heads, channels
        self.bounds, self.bounds_shape = bounds, Shape((kv_heads, "pages", 2 * channels))
        self.constants, self.nodes = constants, list[NodeProto]()

    def grouped(self, attention: NodeProto) -> list[str]:
        """What GroupQueryAttention gives: y [1, 1, heads * channels], and keys and values with the new ones behind them."""
        settings = {a.name: helper.get_attribute_value(a) for a in attention.attribute}
        (q, k, v), cached, rotary = attention.input[:3], attention.input[3:5], attention.input[7:9]
        if not k:
            sizes = [n * self.channels for n in (settings["num_heads"], self.kv_heads, self.kv_heads)]
            q, k, v = self._nodes("Split", 3, q, self._integers(*sizes), axis=-1)
        q, k = (self._node("RotaryEmbedding", x, "position", *rotary) for x in (q, k))
        q = self._shaped(q, self.kv_heads, -1, self.channels)
        new = [self._shaped(x, 1, self.kv_heads, 1, self.channels) for x in (k, v)]
        rows = [self._node("TensorScatter", held, x, "position", axis=2) for held, x in zip(cached, new, strict=True)]
        pages = self._pages(q, settings["scale"])
        keys, values = (self._gather(x, pages) for x in rows)
        attended = self._attend(q, keys, values, settings["scale"])
        return [self._shaped(attended, 1, 1, -1), *rows]

    def latent(self, scores: NodeProto) -> list[str]:
        """What `scores` and the two nodes behind it give for q [1, heads, channels]; rows come as whole pages."""
        (q, rows), scale = scores.input, next(a.f for a in scores.attribute if a.name == "alpha")
        gathered = self._gather(rows, self._pages(q, scale))
        return [self._attend(q, gathered, gathered, scale)]

    def _pages(self, q: str, scale: float) -> str:
        """Indices of pages for q [kv_heads, group, channels], the newest last: [kv_heads, pages]"""
        both = self._node("Concat", q, self._node("Abs", q), axis=-1)
        # The bounds come first: their rows are read as they lie, where a second factor would be rearranged.
        expected = self._node("FusedMatMul", self.bounds, both, transB=1, alpha=scale)  # [kv_heads, pages, group]
        votes = self._node("ReduceSum", self._node("Softmax", expected, axis=1), self._integers(2), keepdims=0)
        others = self._node("Slice", votes, self._integers(1), self._integers(INT64_MAX), self._integers(1))
        best = self._nodes("TopK", 2, others, "choose", axis=-1, sorted=0)[1]
        return self._node("Concat", self._node("Add", best, "offsets"), "always", axis=-1)

    def _gather(self, rows: str, pages: str) -> str:
        """[kv_heads, keys, channels]"""
        taken = self._node("Gather", self._shaped(rows, -1, PAGE * self.channels), pages, axis=0)
        return self._shaped(taken, self.kv_heads, -1, self.channels)

    def _attend(self, q: str, keys: str, values: str, scale: float) -> str:
        scores = self._node("FusedMatMul", q, keys, transB=1, alpha=scale)
        weights = self._node("Softmax", self._node("Add", scores, "unused"), axis=-1)
        return self._node("MatMul", weights, values)

    def _node(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self._nodes(op, 1, *inputs, **attributes)[0]

    def _nodes(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        name, domain = f"{self.name}.{len(self.nodes)}", MICROSOFT if op in CONTRIBUTED else ""
        outputs = [f"{name}.{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name, domain=domain, **attributes))
        return outputs

    def _shaped(self, x: str, *shape: int) -> str:
        return self._node("Reshape", x, self._integers(*shape))

    def _integers(self, *numbers: int) -> str:
        name = f"sparse.{'.'.join(map(str, numbers))}"
        self.constants.setdefault(name, helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers))
        return name
