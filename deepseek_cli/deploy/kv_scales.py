"""Scales for a KV cache in int8: how large keys and values become on the built-in text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepseek_cli.evaluate import HandlePredictor
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops import AttentionSpec
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.quantize.calibration import WINDOW, read_calibration
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.tensors import HeldWeights

WINDOWS = 8
LARGEST = 127  # of int8's codes
ROOM = 1.1  # over what was seen: what goes beyond is cut


class Ranges(TorchOps):
    """Keeps the largest magnitudes of each layer's keys and values, [kv_heads, head_dim].

    Turning a pair of a key's channels by its position leaves their radius as it is, so both get the largest radius.
    """

    def __init__(self, weights: HeldWeights, seen: dict[int, list[Tensor]]) -> None:
        super().__init__(weights)
        self.seen = seen

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, spec: AttentionSpec) -> Tensor:
        radius = torch.hypot(*k.chunk(2, dim=-1)).amax((0, 2))
        largest = [torch.cat((radius, radius), dim=-1), v.abs().amax((0, 2))]
        self.seen[layer] = [*map(torch.maximum, self.seen.get(layer, largest), largest)]
        return super().attend(q, k, v, layer, spec)


def kv_scales(handle: ModelHandle, reporter: Reporter = SILENT) -> list[Any]:
    """For each layer those of keys and of values, float32 [kv_heads, head_dim]."""
    layers = handle.config.layers
    text = read_calibration(open_tokenizer(handle.root), "builtin", WINDOWS * WINDOW, handle.config.context)
    seen: dict[int, list[Tensor]] = {}
    HandlePredictor(
        handle,
        text.windows,
        lambda done: reporter.progress("measure keys and values", done, layers),
        lambda weights: Ranges(weights, seen),
    )
    return [tuple(ROOM * largest.clamp_min(1e-6) / LARGEST for largest in seen[layer]) for layer in range(layers)]
