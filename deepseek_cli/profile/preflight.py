"""Whether a model that is not here yet would run on this machine, and could be quantized on it: from its config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.profile.devices import Device, memory_here
from deepseek_cli.profile.estimate import footprint
from deepseek_cli.profile.fit import Verdict, verdict_of
from deepseek_cli.profile.runtimes import RUNTIMES
from deepseek_cli.profile.sketch import Sketch, from_config
from deepseek_cli.profile.weights import Stored, by_form
from deepseek_cli.quantize.spec import default_group
from deepseek_cli.runtime.context import DEFAULT_CONTEXT
from deepseek_cli.schemes import parse_scheme

SMALL = "int4"
PIECES = 5 / 4  # of the codes of the largest weight, a byte each: 1.42 GB in all for DeepSeek-V3's sizes (benchmarks/LOG.md, 11)


@dataclass(frozen=True, slots=True)
class Fits:
    """What one kind of work takes here. `scheme` is what the weights lie in while it is done, or what they are made."""

    work: Literal["run", "quantize"]
    scheme: str
    needed_bytes: int
    memory_bytes: int  # of this machine
    verdict: Verdict


def preflight(name: str, config: Mapping[str, Any]) -> tuple[Fits, ...]:
    """To run it as it is, to run it in int4, and to quantize it so (without calibration, whose levels take what there is).

    Empty where a config.json alone does not say how the weights are stored.
    """
    try:
        sketch = from_config(name, config, Path("config.json"))
    except ModelUnsupported:
        return ()
    device = memory_here()
    small = str(parse_scheme(SMALL, default_group(sketch.parameters)))
    return (
        _fits("run", by_form(sketch.weights)[0]["form"], _running(sketch, sketch.weights), device),
        _fits("run", small, _running(sketch, sketch.in_scheme(SMALL)), device),
        _fits("quantize", small, quantizing_bytes(sketch), device),
    )


def quantizing_bytes(sketch: Sketch) -> int:
    """Weights are read and written one at a time."""
    return RUNTIMES["PyTorch"].libraries_bytes + int(PIECES * max(prod(kind.shape) for kind in sketch.kinds))


def _running(sketch: Sketch, stored: tuple[Stored, ...]) -> int:
    tokens = min(sketch.config.context, DEFAULT_CONTEXT)
    return int(footprint(sketch, stored, "packed", "fp16", tokens)["total_bytes"])


def _fits(work: Literal["run", "quantize"], scheme: str, needed: int, device: Device) -> Fits:
    return Fits(work, scheme, needed, device.memory_bytes, verdict_of(needed, device.usable_bytes))
