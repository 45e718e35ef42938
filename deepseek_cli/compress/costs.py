"""What rounding costs a shape: the divergence that each unit of weights causes in each scheme, measured once.

From that follow, without another look at the model, the bytes and the divergence of every way to distribute schemes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from deepseek_cli.fields import read_json
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize import sensitivity
from deepseek_cli.quantize.allocate import Option, solve
from deepseek_cli.quantize.goal import CANDIDATES, LENGTH, MEASURED, TOKENS, fixed_bytes
from deepseek_cli.quantize.plan import Plan, make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import Reporter

MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Mixture:
    """A scheme for each unit, by its first name; `size_bytes` is of all tensors."""

    schemes: Mapping[str, str]
    size_bytes: int
    kl: float

    def record(self) -> dict[str, Any]:
        """As `quantize` takes a distribution, and its manifest keeps it."""
        return {"name": MIXED, "schemes": dict(self.schemes), "predicted_kl": self.kl}


@dataclass(frozen=True, slots=True)
class Costs:
    """`options` are those of each of `plan`'s units; `fixed_bytes` is all else in the tensors."""

    plan: Plan
    options: tuple[tuple[Option, ...], ...]
    fixed_bytes: int

    def mixed(self, budget: int) -> Mixture | None:
        """The least divergence within so many bytes of tensors; None where no distribution is that small."""
        try:
            chosen = solve(self.options, budget - self.fixed_bytes)
        except ValueError:
            return None
        schemes = {unit[0]: str(option.scheme) for unit, option in zip(self.plan.units, chosen, strict=True)}
        size = self.fixed_bytes + sum(option.size_bytes for option in chosen)
        return Mixture(schemes, size, math.fsum(option.kl for option in chosen))

    def kl_of(self, plan: Plan) -> float:
        """What another plan of the same weights costs; what it leaves dense costs nothing."""
        schemes = {item.name: item.scheme for item in plan.items}
        found = zip(self.plan.units, self.options, strict=True)
        return math.fsum(o.kl for unit, options in found for o in options if o.scheme == schemes[f"{unit[0]}.weight"])


def measure(handle: ModelHandle, windows: Tensor, kept: Path | None, reporter: Reporter) -> Costs | None:
    """None where nothing is left to choose. `kept` is the file that an earlier run wrote them to, or that this one does."""
    plan = make_plan(handle, QuantizeSpec(scheme="int4"))
    if not plan.units:
        return None
    schemes = [replace(plan.scheme, bits=bits, group=group) for bits, group in CANDIDATES]
    if kept and kept.is_file():
        kls = read_json(kept)["kl"]
    else:
        at = replace(plan.scheme, bits=MEASURED[0], group=MEASURED[1])
        measured = sensitivity.measure(handle, plan.units, windows, at, reporter)
        kls = [[option.kl for option in sensitivity.options(handle, unit, schemes)] for unit in measured]
        if kept:
            kept.write_text(json.dumps({"kl": kls}), encoding="utf-8")
    options = tuple(
        tuple(Option(scheme, sensitivity.size_of(handle, unit, scheme), kl) for scheme, kl in zip(schemes, row, strict=True))
        for unit, row in zip(plan.units, kls, strict=True)
    )
    return Costs(plan, options, fixed_bytes(handle, plan))


def windows_of(windows: Tensor) -> Tensor:
    """What is looked at of a calibration text: as much as `quantize --to-size` looks at."""
    length = min(windows.shape[1], LENGTH)
    flat = windows.flatten()
    count = min(TOKENS, len(flat)) // length
    return flat[: count * length].view(count, length)


def seconds_for(handle: ModelHandle) -> float:
    """A rough time for `measure`."""
    return sensitivity.seconds_for(handle, len(make_plan(handle, QuantizeSpec(scheme="int4")).units), TOKENS)
