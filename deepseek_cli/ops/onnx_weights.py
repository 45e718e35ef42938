"""The half of the writing interpreter that puts weights into the graph: codes as they lie, all else in the graph's own dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from deepseek_cli.formats.nbits import Coded, NBits, to_nbits, unfit
from deepseek_cli.ops.onnx_graph import Graph, Rows
from deepseek_cli.reporter import Reporter
from deepseek_cli.tensors import CorrectedTensor, QuantizedTensor, TensorRef, Weight, dense, in_pieces

FLOAT = ir.DataType.FLOAT
TORCH_DTYPES = {FLOAT: torch.float32, ir.DataType.FLOAT16: torch.float16}


class WeightOps:
    """`dense_fallbacks` lists quantized tensors that are written dense, with the reason."""

    dtype = FLOAT  # of activations, caches, scales and what is dense

    def __init__(self, graph: Graph, tensors: Mapping[str, TensorRef], reporter: Reporter) -> None:
        self.graph, self.tensors, self.reporter = graph, tensors, reporter
        self.dense_fallbacks: list[tuple[str, str]] = []
        self.written: set[str] = set()
        self.written_bytes, self.size_bytes = 0, sum(ref.size_bytes for ref in tensors.values())

    def _constants(self, label: str, weights: Sequence[NBits]) -> tuple[ir.Value, ir.Value, ir.Value | None]:
        codes = self.graph.constant(f"{label}.codes", *(w.packed for w in weights))
        scale = self.graph.constant(f"{label}.scales", *(self._cast(w.scale, label) for w in weights))
        zeros = [w.zero for w in weights if w.zero is not None]
        return codes, scale, self.graph.constant(f"{label}.zeros", *zeros) if zeros else None

    def _bias(self, names: Sequence[str]) -> ir.Value | None:
        """The biases of a product's linears, zeros for one that has none."""
        if not any(f"{name}.bias" in self.tensors for name in names):
            return None
        parts = []
        for name in names:
            bias = self.tensors.get(f"{name}.bias")
            parts.append(dense(bias.read()) if bias else torch.zeros(self.tensors[f"{name}.weight"].shape[0]))
        label = ",".join(names)
        return self.graph.constant(f"{label}.bias", *(self._cast(part, label) for part in parts))

    def _vector(self, name: str) -> ir.Value:
        return self.graph.constant(f"{name}.weight", self._cast(dense(self.tensors[f"{name}.weight"].read()), name))

    def _weight(self, name: str) -> Rows | NBits:
        weight = self._codes(self.tensors[f"{name}.weight"].read())
        if isinstance(weight, QuantizedTensor) and not self._unfit(weight):
            return self._nbits(weight)
        return self._values(name, "" if isinstance(weight, Tensor) else self._unfit(weight))

    def _codes(self, weight: Weight) -> Weight:
        """What a product takes of it: a low-rank correction is computed beside."""
        return weight.rounded if isinstance(weight, CorrectedTensor) else weight

    def _values(self, name: str, reason: str = "no operator that takes its codes splits it as this model does") -> Rows:
        """Its values, whatever it is stored as; a quantized tensor is listed with the reason."""
        ref = self.tensors[f"{name}.weight"]
        if not isinstance(ref.read(), Tensor) and all(
            listed != f"{name}.weight" for listed, _ in self.dense_fallbacks
        ):  # a tied head asks again
            self.dense_fallbacks.append((f"{name}.weight", reason))

        def make() -> Iterator[Tensor]:
            for part in in_pieces(ref.read()):
                yield self._cast(dense(part), name)
                ref.release()

        return Rows(ref.shape, TORCH_DTYPES[self.dtype], make)

    def _unfit(self, weight: Coded) -> str:
        """Why the graph cannot hold these codes; "" where it can."""
        return unfit(weight)

    def _nbits(self, weight: QuantizedTensor) -> NBits:
        return to_nbits(weight)

    def _cast(self, values: Tensor, name: str) -> Tensor:
        """As the graph holds what it computes with; `name` is whose values they are."""
        return values.float()

    def _integers(self, *numbers: int) -> ir.Value:
        return self.graph.constant(f"integers.{'.'.join(map(str, numbers))}", torch.tensor(numbers))

    def _floats(self, *numbers: float) -> ir.Value:
        return self.graph.constant(f"floats.{'.'.join(map(str, numbers))}", torch.tensor(numbers))

    def _done(self, *names: str) -> None:
        """These weights are in the file: let their pages go."""
        for name in names:
            self.tensors[f"{name}.weight"].release()
        new = {f"{name}.weight" for name in names} - self.written
        self.written |= new
        self.written_bytes += sum(self.tensors[name].size_bytes for name in new)
        self.reporter.progress("write", self.written_bytes, self.size_bytes, "B")
