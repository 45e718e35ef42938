"""The scales that cost least on the grids of ggml's block formats, each input counting by its mean square.

A block's scales are found one by one as if they were free, then rounded to the block's own few bits; from there on it goes by
coordinates: each scale a step up or down where that lowers the error, then the block's factors by least squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from deepseek_cli.ahead import in_order
from deepseek_cli.formats.block_pack import pack_q4_k, pack_q5_0, pack_q6_k, pack_q8_0
from deepseek_cli.quantize.statistics import Statistics
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import BlockTensor, Weight, dense, take_rows

CACHED_VALUES = 1 << 16  # stay in cache over all candidates
READ_VALUES = 1 << 23  # are read at once
STRETCHES = torch.linspace(-1.0, 2.0, 16).tolist()  # added to the largest code that the largest value would get
SWEEPS = 2  # over the coordinates
TINY = 1e-30


def quantize(
    weight: Weight, scheme: Scheme, statistics: Statistics | None = None, passed: Callable[[], None] = lambda: None
) -> BlockTensor:
    """A weight [out, in] in a block format whose blocks divide its inputs.

    Raises ValueError when the weight holds a NaN or an infinity.
    """
    out, inputs = weight.shape
    form = FORMS[scheme.block]
    counts = torch.ones(inputs) if statistics is None else statistics.importance / statistics.importance.mean().clamp_min(TINY)
    counts = counts.clamp_min(1e-6).view(1, -1, form.subs, form.values)
    raw, step = list[Tensor](), max(READ_VALUES // inputs, 1)
    for start in range(0, out, step):
        part = dense(take_rows(weight, slice(start, start + step))).float()
        if not part.isfinite().all():
            raise ValueError("not finite")
        raw += in_order(lambda rows: form.rows(rows, counts), part.split(max(CACHED_VALUES // inputs, 1)))
        passed()
    return BlockTensor(scheme.block, torch.cat(raw), (out, inputs))


# Values x are float32 [rows, blocks, sub-blocks, values], counts c [1, blocks, sub-blocks, values]; scales lack the last
# dimension, and a block's factors are [rows, blocks, 1].


def to_q4_k(x: Tensor, c: Tensor) -> Tensor:
    scale, least = _affine(x, c, levels=15)
    d, dmin = _halved(scale.amax(-1, keepdim=True) / 63), _halved(least.amax(-1, keepdim=True) / 63)
    s, m = ((t / f.clamp_min(TINY)).round_().clamp_(0, 63) for t, f in ((scale, d), (least, dmin)))

    def codes(s: Tensor, m: Tensor) -> Tensor:
        span = (d * s).unsqueeze(-1)
        return ((x + (dmin * m).unsqueeze(-1)) / span.clamp_min(TINY)).round_().clamp_(0, 15)

    def error(s: Tensor, m: Tensor) -> Tensor:
        return (((d * s).unsqueeze(-1) * codes(s, m) - (dmin * m).unsqueeze(-1) - x).square_() * c).sum(-1)

    for _ in range(SWEEPS):
        s = _stepped(s, partial(error, m=m), 0, 63)
        m = _stepped(m, partial(error, s), 0, 63)
        before, q = error(s, m).sum(-1, keepdim=True), codes(s, m)
        found = _two_factors(x, c, q * s.unsqueeze(-1), m.unsqueeze(-1).expand_as(x))
        old, (d, dmin) = (d, dmin), tuple(map(_halved, found))
        worse = ~(error(s, m).sum(-1, keepdim=True) < before) | (d <= 0) | (dmin < 0)
        d, dmin = (torch.where(worse, a, b) for a, b in zip(old, (d, dmin), strict=True))
    q = codes(s, m).flatten(-2).to(torch.uint8)
    s, m = s.to(torch.uint8), m.to(torch.uint8)
    return pack_q4_k(*(t.flatten(0, 1) for t in (q, s, m, d, dmin)))


def to_q6_k(x: Tensor, c: Tensor) -> Tensor:
    scale = _symmetric(x, c, half=32)
    largest = scale.gather(-1, scale.abs().argmax(-1, keepdim=True))
    d = _halved(largest / -128)
    s = (scale / _safe(d)).round_().clamp_(-128, 127)

    def codes(s: Tensor) -> Tensor:
        return (x / _safe(d * s).unsqueeze(-1)).round_().clamp_(-32, 31)

    def error(s: Tensor) -> Tensor:
        return (((d * s).unsqueeze(-1) * codes(s) - x).square_() * c).sum(-1)

    for _ in range(SWEEPS):
        s = _stepped(s, error, -128, 127)
        before, units = error(s).sum(-1, keepdim=True), codes(s) * s.unsqueeze(-1)
        qx, qq = ((t * c).sum((-1, -2)).unsqueeze(-1) for t in (units * x, units.square()))
        old, d = d, _halved(qx / qq.clamp_min(TINY))
        d = torch.where(error(s).sum(-1, keepdim=True) < before, d, old)
    q = (codes(s) + 32).flatten(-2).to(torch.uint8)
    return pack_q6_k(q.flatten(0, 1), s.to(torch.int8).flatten(0, 1), d.flatten(0, 1))


def to_q5_0(x: Tensor, c: Tensor) -> Tensor:
    return pack_q5_0(*_one_scale(x, c, half=16))


def to_q8_0(x: Tensor, c: Tensor) -> Tensor:
    return pack_q8_0(*_one_scale(x, c, half=128))


def _one_scale(x: Tensor, c: Tensor, half: int) -> tuple[Tensor, Tensor]:
    d = _halved(_symmetric(x, c, half))
    q = (x / _safe(d).unsqueeze(-1)).round_().clamp_(-half, half - 1) + half
    return q.to(torch.uint8).flatten(0, 2), d.view(-1, 1)


def _symmetric(x: Tensor, c: Tensor, half: int) -> Tensor:
    """The scale of each sub-block that costs least, its sign such that the largest magnitude gets the code -half."""
    largest = x.gather(-1, x.abs().argmax(-1, keepdim=True)).squeeze(-1)
    saved, scale = torch.full_like(largest, -1.0), torch.zeros_like(largest)
    weighed = x * c
    for stretch in STRETCHES:
        q = (x / _safe(largest / -(half + stretch)).unsqueeze(-1)).round_().clamp_(-half, half - 1)
        qx, qq = (q * weighed).sum(-1), (q.square() * c).sum(-1).clamp_min_(TINY)
        better = qx * qx / qq > saved
        saved, scale = torch.where(better, qx * qx / qq, saved), torch.where(better, qx / qq, scale)
    return scale


def _affine(x: Tensor, c: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Of each sub-block, the scale and what is taken off, both at least zero, that cost least."""
    low = x.amin(-1).clamp_max_(0)
    span = (x.amax(-1) - low).clamp_min_(TINY)
    weighed = x * c
    total, sum_x = c.sum(-1), weighed.sum(-1)
    best, scale, least = torch.full_like(low, -1.0), span / levels, -low
    for stretch in STRETCHES:
        q = ((x - low.unsqueeze(-1)) * ((levels + stretch) / span).unsqueeze(-1)).round_().clamp_(0, levels)
        sum_q, sum_qx, sum_qq = (q * c).sum(-1), (q * weighed).sum(-1), (q.square() * c).sum(-1)
        s = (total * sum_qx - sum_x * sum_q) / (total * sum_qq - sum_q * sum_q).clamp_min_(TINY)
        m = (s * sum_q - sum_x) / total
        alone = m < 0
        s, m = torch.where(alone, sum_qx / sum_qq.clamp_min(TINY), s), m.clamp_min(0)
        saved = 2 * (s * sum_qx - m * sum_x) - s * s * sum_qq - m * m * total + 2 * s * m * sum_q
        better = (saved > best) & (s > 0)
        best, scale, least = (torch.where(better, new, old) for new, old in ((saved, best), (s, scale), (m, least)))
    return scale, least


def _stepped(value: Tensor, error: Callable[[Tensor], Tensor], low: int, high: int) -> Tensor:
    """Each value, or its neighbour that costs less."""
    best, least = value, error(value)
    for step in (-1, 1):
        tried = (value + step).clamp_(low, high)
        cost = error(tried)
        best, least = torch.where(cost < least, tried, best), torch.minimum(cost, least)
    return best


def _two_factors(x: Tensor, c: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """f and g, [rows, blocks, 1], for which f a - g b comes closest to x over a whole block."""
    total = lambda t: (t * c).sum((-1, -2)).unsqueeze(-1)  # noqa: E731
    aa, ab, bb, ax, bx = total(a * a), total(a * b), total(b * b), total(a * x), total(b * x)
    det = aa * bb - ab * ab
    solvable = det > 1e-6 * aa * bb
    det = torch.where(solvable, det, torch.ones_like(det))
    f = torch.where(solvable, (ax * bb - bx * ab) / det, ax / aa.clamp_min(TINY))
    return f, torch.where(solvable, (ax * ab - bx * aa) / det, torch.zeros_like(f))


def _halved(factor: Tensor) -> Tensor:
    return factor.half().float()


def _safe(scale: Tensor) -> Tensor:
    """To divide by: zero becomes what gives every value the code zero."""
    return torch.where(scale == 0, torch.inf, scale)


@dataclass(frozen=True, slots=True)
class Form:
    subs: int  # sub-blocks of a block
    values: int  # of a sub-block
    pack: Callable[[Tensor, Tensor], Tensor]

    def rows(self, weight: Tensor, counts: Tensor) -> Tensor:
        """float32 [rows, in] to uint8 [rows, bytes]"""
        return self.pack(weight.unflatten(1, (-1, self.subs, self.values)), counts).view(len(weight), -1)


FORMS = {
    "q4_k": Form(8, 32, to_q4_k),
    "q5_0": Form(1, 32, to_q5_0),
    "q6_k": Form(16, 16, to_q6_k),
    "q8_0": Form(1, 32, to_q8_0),
}
