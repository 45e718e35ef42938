"""The layer that drafts a token further (multi-token prediction), as a second graph over the first one's data file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from deepseek_cli.ops import Architecture
from deepseek_cli.ops.drafting import STATES
from deepseek_cli.ops.onnx_graph import Graph, Part
from deepseek_cli.ops.onnx_ops import ORT, OnnxOps
from deepseek_cli.ops.onnx_weights import FLOAT
from deepseek_cli.tensors import TensorRef

ROWS = ".rows"


def emit_draft(
    architecture: Architecture,
    config: Any,
    tensors: Mapping[str, TensorRef],
    path: Path,
    beside: Path,
    context: int,
    rounds_tokens: bool = False,
) -> list[tuple[str, str]]:
    """Write the graph `path`; its weights go behind those of the graph `beside`, which it shares where they are the same.

    Gives back the quantized tensors that became dense, each with the reason.
    """
    assert architecture.draft
    with Beside(path, beside, {"context": str(context)}) as graph:
        ops = DraftOps(graph, tensors, context, rounds_tokens=rounds_tokens)
        states = graph.input(STATES, FLOAT, [ORT.batch, "sequence", config.hidden])
        architecture.head(ops, config, architecture.draft(ops, config, ops.tokens, states))
    return ops.dense_fallbacks


class DraftOps(OnnxOps):
    always_few = True


class Beside(Graph):
    """A graph that appends to the data file of another one, and takes from it what goes by the same name."""

    def __init__(self, path: Path, first: Path, metadata: dict[str, str]) -> None:
        super().__init__(path, metadata)
        self.shared = {
            value.name or "": value.const_value
            for value in ir.load(first).graph.initializers.values()
            if isinstance(value.const_value, ir.ExternalTensor)
        }
        for name in [name for name in self.shared if name.endswith(ROWS)]:  # of an embedding, the only form that was used
            self.shared.setdefault(f"{name.removesuffix(ROWS)}.codes", self.shared[name])
        (self.data_paths[0],) = {first.with_name(str(tensor.location)) for tensor in self.shared.values()}

    def __enter__(self) -> Beside:
        self.data = self.data_paths[0].open("ab")
        return self

    def constant(self, name: str, *parts: Part, shape: Sequence[int] | None = None) -> ir.Value:
        known = self.shared.get(name)
        if known is not None and name not in self.initializers:
            assert known.offset is not None and known.length is not None
            self.places[name] = self.data_paths[0], known.dtype, known.offset, known.length
            self._add(name, known)
        return super().constant(name, *parts, shape=shape)
