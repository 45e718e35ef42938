"""A weight that learns how to be quantized: what it would be on the grid, and what a gradient of that changes.

A latent stands for each code: the code itself, and how far it leans towards the next one. Where it crosses the middle the code
moves. Scales change by a factor each, and are used as they will be stored. Rows are taken a few at a time, so that the many
elementwise steps find them in the cache.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.quantize.algorithms import Rates
from deepseek_cli.quantize.grid import snap
from deepseek_cli.tensors import QuantizedTensor, pack, unpack

CHUNK = 1 << 16  # values
LEAN = 0.49  # of a step; a latent starts in the code that it was given
FARTHEST = 10.0  # root mean squares, that one gradient moves a latent by
DECAYS = (0.9, 0.95)  # of Adam's moments


class FakeQuantized:
    """`quantized` [out, in] is where it starts, `weight` what it was made from."""

    def __init__(self, quantized: QuantizedTensor, weight: Tensor) -> None:
        self.quantized, self.group = quantized, quantized.group
        self.scale = quantized.scale  # float32 [out, groups]
        zero = quantized.zero_point
        self.middle = (
            zero.float().unsqueeze(-1) if isinstance(zero, Tensor) else torch.tensor(float(zero)).expand(len(weight), 1, 1)
        )
        self.high = float((1 << quantized.bits) - 1)
        self.factor, self.mean, self.square = (torch.zeros_like(self.scale) for _ in range(3))
        self.latent = torch.empty(*self.scale.shape, self.group)  # float32, from 0 to `high`; a short last group is filled up
        for rows in self._chunks():
            codes = self._grouped(unpack(quantized.packed[rows], quantized.bits).float())
            exact = self._grouped(weight[rows].float()) / self.scale[rows, :, None] + self.middle[rows]
            far = exact.sub_(codes).abs()  # a code that is not the nearest was chosen for its neighbours' sake: it leans back
            self.latent[rows] = codes + torch.minimum(far, 1 - far).clamp_(0, LEAN).copysign_(exact)
        self.steps = torch.zeros((), dtype=torch.int64)

    @property
    def parts(self) -> dict[str, Tensor]:
        """All that a step changes."""
        names = ("latent", "factor", "mean", "square", "steps")
        return {name: getattr(self, name) for name in names}

    @property
    def shape(self) -> tuple[int, int]:
        return self.quantized.shape

    def dense(self, dtype: torch.dtype) -> Tensor:
        """What it is on the grid, [out, in]."""
        scale, values = self._scale(), torch.empty(self.shape, dtype=dtype)
        for rows in self._chunks():
            exact = self._codes(rows).sub_(self.middle[rows]).mul_(scale[rows, :, None])
            values[rows] = exact.flatten(1)[:, : self.shape[1]]
        return values

    def learn(self, gradient: Tensor, rates: Rates) -> None:
        """One step down `gradient` [out, in]: latents along it, in units of its root mean square, scales by Adam."""
        slope, scale = torch.empty_like(self.scale), self._scale()
        unit = torch.linalg.vector_norm(gradient, dtype=torch.float32).clamp_min(1e-30) / math.sqrt(gradient.numel())
        for rows in self._chunks():
            g = self._grouped(gradient[rows].float())
            slope[rows] = (self._codes(rows).sub_(self.middle[rows]).mul_(g)).sum(-1)
            if rates.code:
                g.mul_(scale[rows, :, None].sign() / unit).clamp_(-FARTHEST, FARTHEST)
                self.latent[rows].sub_(g, alpha=rates.code).clamp_(-LEAN, self.high + LEAN)
        self._learn_scales(slope.mul_(self.scale), rates.scale)

    def _learn_scales(self, slope: Tensor, rate: float) -> None:
        self.steps += 1
        (first, second), steps = DECAYS, int(self.steps)
        self.mean.lerp_(slope, 1 - first)
        self.square.mul_(second).addcmul_(slope, slope, value=1 - second)
        size = self.square.div(1 - second**steps).sqrt_().add_(1e-20)
        self.factor.addcdiv_(self.mean, size, value=-rate / (1 - first**steps)).clamp_(-0.5, 1.0)

    def export(self) -> QuantizedTensor:
        codes = torch.empty(self.shape, dtype=torch.uint8)
        for rows in self._chunks():
            codes[rows] = self._codes(rows).flatten(1)[:, : self.shape[1]].to(torch.uint8)
        q = self.quantized
        return QuantizedTensor(pack(codes, q.bits), self._scale(), q.bits, q.group, q.zero)

    def _codes(self, rows: slice) -> Tensor:
        return self.latent[rows].round().clamp_(0, self.high)

    def _scale(self) -> Tensor:
        return snap(self.scale * (1 + self.factor), bits=8 if self.quantized.zero is None else 7)

    def _grouped(self, values: Tensor) -> Tensor:
        """[rows, in] to [rows, groups, group]"""
        missing = -values.shape[1] % self.group
        return (F.pad(values, (0, missing)) if missing else values).unflatten(1, (-1, self.group))

    def _chunks(self) -> list[slice]:
        size = max(CHUNK // math.prod(self.shape[1:]), 1)
        return [slice(start, start + size) for start in range(0, self.shape[0], size)]
