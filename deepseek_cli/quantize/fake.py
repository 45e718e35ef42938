"""A quantized weight whose scales learn. Its codes stay: what calibration decided jointly, gradients of a few texts only disturb.

Scales change by a factor each, and are used as they will be stored. Rows are taken a few at a time, so that the many
elementwise steps find them in the cache.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.quantize.grid import snap
from deepseek_cli.tensors import CorrectedTensor, QuantizedTensor

CHUNK = 1 << 16  # values
DECAYS = (0.9, 0.95)  # of Adam's moments


class FakeQuantized:
    """`weight` [out, in] is where it starts (EfficientQAT's last phase, arXiv 2407.11062 §3.3, by Adam, arXiv 1412.6980)."""

    def __init__(self, weight: QuantizedTensor | CorrectedTensor) -> None:
        self.weight = weight
        self.quantized = quantized = weight.rounded if isinstance(weight, CorrectedTensor) else weight
        self.factor, self.mean, self.square = (torch.zeros_like(quantized.scale) for _ in range(3))  # float32 [out, groups]
        self.steps = torch.zeros((), dtype=torch.int64)

    @property
    def parts(self) -> dict[str, Tensor]:
        """All that a step changes."""
        names = ("factor", "mean", "square", "steps")
        return {name: getattr(self, name) for name in names}

    def export(self) -> QuantizedTensor | CorrectedTensor:
        q = self.quantized
        learned = replace(q, scale=snap(q.scale * (1 + self.factor), bits=8 if q.zero is None else 7))
        return replace(self.weight, rounded=learned) if isinstance(self.weight, CorrectedTensor) else learned

    def dense(self, dtype: torch.dtype) -> Tensor:
        """What it is on the grid, [out, in]."""
        now = self.export()
        return torch.cat([now.rows(rows).dequantize().to(dtype) for rows in self._chunks()])

    def learn(self, gradient: Tensor, rate: float) -> None:
        """One step down `gradient` [out, in] by Adam, a scale moving by about `rate` of itself."""
        q, slopes = self.quantized, []
        for rows in self._chunks():
            pull = q.rows(rows).dequantize().mul_(gradient[rows])  # by how much the loss grows with the factors of its scales
            pull = F.pad(pull, (0, -pull.shape[1] % q.group))
            slopes.append(pull.unflatten(1, (-1, q.group)).sum(-1))
        slope = torch.cat(slopes)
        self.steps += 1
        (first, second), steps = DECAYS, int(self.steps)
        self.mean.lerp_(slope, 1 - first)
        self.square.mul_(second).addcmul_(slope, slope, value=1 - second)
        size = self.square.div(1 - second**steps).sqrt_().add_(1e-20)
        self.factor.addcdiv_(self.mean, size, value=-rate / (1 - first**steps)).clamp_(-0.5, 1.0)

    def _chunks(self) -> list[slice]:
        size = max(CHUNK // math.prod(self.quantized.shape[1:]), 1)
        return [slice(start, start + size) for start in range(0, self.quantized.shape[0], size)]
