"""A session over an openvino bundle: OpenVINO's plugin for CPUs, which keeps the KV cache in the model's variables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli.errors import ModelCorrupt
from deepseek_cli.runtime.session import check_room, in_chunks, require

GRAPH = "openvino_model.xml"
INSTALL = "Install it: pip install 'deepseek-cli[{extra}]'"
CHUNK = 512  # tokens of a prefill that are computed at once
EXACT = {
    "EXECUTION_MODE_HINT": "ACCURACY",
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
}
INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"  # read once by OpenVINO's oneDNN, and once by PyTorch's, which is another
ROUNDED = 8  # bytes of scale and zero point beside a head's channels, where the cache holds bytes


def runtime() -> str:
    """Name and version. Raises MissingExtra where it is not installed, or another version than needed."""
    return require("openvino", "openvino", INSTALL)


def compiled(model: Any, settings: Mapping[str, Any] | None = None) -> Any:
    """A model, or the file of one, for this CPU, without AMX: 2026.4's kernels for it divide by zero on small shapes.

    An environment that says which instructions to use is heeded.
    """
    import openvino

    told = INSTRUCTIONS in os.environ
    os.environ.setdefault(INSTRUCTIONS, "AVX512_CORE_FP16")
    try:
        return openvino.Core().compile_model(model, "CPU", dict(settings or {}))
    finally:
        if not told:
            del os.environ[INSTRUCTIONS]


def open_folder(folder: Path, config: Any, context: int, threads: int | None, exact: bool) -> OpenvinoSession:
    """What runs an openvino bundle; `exact` in float32, neither activations nor the cache rounded."""
    return OpenvinoSession(folder, config, context, threads, exact)


class OpenvinoSession:
    """Of a bundle as shipped the plugin chooses the precision: bfloat16 where the processor has it, and a cache of bytes."""

    def __init__(self, folder: Path, config: Any, context: int, threads: int | None = None, exact: bool = False) -> None:
        runtime()
        import openvino

        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        model = read_graph(folder)
        cut_logits(model)
        runs = compiled(model, settings | (EXACT if exact else {}))
        self.request, self.tensor = runs.create_infer_request(), openvino.Tensor
        self.context, self.position = context, 0
        cached = runs.get_property("KV_CACHE_PRECISION")
        row = config.head_dim * cached.size + (ROUNDED if cached.size == 1 else 0)
        self.token_bytes = 2 * config.layers * config.kv_heads * row

    @property
    def kv_bytes(self) -> int:
        return self.position * self.token_bytes

    def feed(self, tokens: Sequence[int], keep: int = 1) -> np.ndarray:
        check_room(self.position, len(tokens), self.context)
        found = []
        for chunk, wanted in in_chunks(tokens, keep, CHUNK):
            logits = self._run(chunk, max(wanted, 1))
            found += [logits] if wanted else []
        return found[0] if len(found) == 1 else np.concatenate(found)

    def rewind(self, position: int) -> None:
        if position <= 0:
            self.request.reset_state()
        elif position < self.position:
            for variable in self.request.query_state():
                variable.state = self.tensor(np.ascontiguousarray(variable.state.data[:, :, :position]))
        self.position = max(min(position, self.position), 0)

    def _run(self, tokens: Sequence[int], keep: int) -> np.ndarray:
        """Append at most CHUNK tokens; logits of the last `keep`."""
        end = self.position + len(tokens)
        inputs = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self.position, end)[None],
            "beam_idx": np.zeros(1, np.int32),
            "keep": np.array([keep]),
        }
        self.position = end
        return self.request.infer(inputs)["logits"][0]


def read_graph(folder: Path) -> Any:
    """The bundle's openvino.Model, its weights mapped. Raises ModelCorrupt for one that OpenVINO does not take."""
    from openvino import Core

    try:
        return Core().read_model(folder / GRAPH)
    except RuntimeError as error:
        raise ModelCorrupt(
            "{file} cannot be loaded: {reason}",
            hint="Deploy the model again.",
            file=folder / GRAPH,
            reason=str(error).strip().split("\n")[-1],
        ) from error


def cut_logits(model: Any) -> None:
    """Give `model` an input more: of how many last positions it computes logits."""
    from openvino import Type, opset8

    keep = opset8.parameter([1], Type.i64)
    keep.output(0).set_names({"keep"})
    head = model.output("logits").get_node().input_value(0).get_node()
    end, step, axis = ([number] for number in (np.iinfo(np.int64).max, 1, 1))
    last = opset8.slice(head.input_value(0), opset8.negative(keep), end, step, axis)
    head.input(0).replace_source_output(last.output(0))
    model.add_parameters([keep])
