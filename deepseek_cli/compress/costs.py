"""What rounding costs a shape: the divergence that each unit of weights causes in each scheme, measured once.

From that follow, without another look at the model, the bytes and the divergence of every way to distribute schemes.

What units cause alone adds up only while it is small (HIGGS, arXiv 2411.17525, theorem 1). How much more, or less, they cause
together is measured once, with all of them rounded, and grows in proportion to their sum.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.evaluate import HandlePredictor, Text, Windows, compare
from deepseek_cli.fields import read_json
from deepseek_cli.handle import ModelHandle
from deepseek_cli.quantize import sensitivity
from deepseek_cli.quantize.allocate import Option, solve
from deepseek_cli.quantize.goal import CANDIDATES, LENGTH, MEASURED, TOKENS, fixed_bytes
from deepseek_cli.quantize.plan import Plan, make_plan
from deepseek_cli.quantize.sensitivity import Measured
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.refs import TensorRef
from deepseek_cli.reporter import Reporter
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import dense

MIXED = "mixed"
THREE_BITS = ((3, 128), (3, 64), (3, 32))  # bits, group


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
    """`options` are those of each of `plan`'s units; `fixed_bytes` is all else in the tensors.

    `alone` is the sum of what units cause when each is rounded alone, `together` what they cause when all of them are, and
    `others` what all else does as it is written: weights that a rule holds, and dense ones in bfloat16.
    """

    plan: Plan
    options: tuple[tuple[Option, ...], ...]
    fixed_bytes: int
    alone: float
    together: float
    others: float = 0.0

    def mixed(self, budget: int) -> Mixture | None:
        """The least divergence within so many bytes of tensors; None where no distribution is that small."""
        try:
            chosen = solve(self.options, budget - self.fixed_bytes)
        except ValueError:
            return None
        schemes = {unit[0]: str(option.scheme) for unit, option in zip(self.plan.units, chosen, strict=True)}
        size = self.fixed_bytes + sum(option.size_bytes for option in chosen)
        return Mixture(schemes, size, self.whole(math.fsum(option.kl for option in chosen)))

    def kl_of(self, plan: Plan) -> float:
        """What another plan of the same weights costs; what it leaves dense costs nothing."""
        schemes = {item.name: item.scheme for item in plan.items}
        found = zip(self.plan.units, self.options, strict=True)
        return self.whole(math.fsum(o.kl for unit, options in found for o in options if o.scheme == schemes[f"{unit[0]}.weight"]))

    def whole(self, total: float) -> float:
        """What a model comes to whose units cause `total` one by one: the same near nothing, and `together` at `alone`.

        It never falls with `total`: where units do more together it grows as a square, else it levels off.
        """
        if not self.alone or not self.together:
            return self.others + total
        ratio, part = self.together / self.alone, total / self.alone
        return self.others + (total * (1 + (ratio - 1) * part) if ratio >= 1 else total / (1 + (1 / ratio - 1) * part))


def measure(
    handle: ModelHandle, windows: Tensor, kept: Path | None, reporter: Reporter, fewest_bits: int = 4, zero_points: bool = True
) -> Costs | None:
    """None where nothing is left to choose.

    `kept` is the file that this run writes them to; those of an earlier one that chose among the same schemes are taken from it.
    """
    plan = make_plan(handle, QuantizeSpec(scheme="int4"))
    if not plan.units:
        return None
    schemes = schemes_for(plan.scheme, fewest_bits, zero_points)
    known = read_json(kept) if kept and kept.is_file() else {}
    if known.get("schemes") != (names := [str(scheme) for scheme in schemes]):
        at = replace(plan.scheme, bits=MEASURED[0], group=MEASURED[1])
        measured = sensitivity.measure(handle, plan.units, windows, at, reporter)
        known = {
            "schemes": names,
            "kl": [[option.kl for option in sensitivity.options(handle, unit, schemes)] for unit in measured],
            "alone": math.fsum(unit.kl for unit in measured),
            "together": _divergence(handle, _units(handle, measured), windows),
            "others": _divergence(handle, _others(handle, plan), windows),
        }
        if kept:
            unfinished = kept.with_suffix(".new")
            unfinished.write_text(json.dumps(known), encoding="utf-8")
            unfinished.replace(kept)
    options = tuple(
        tuple(Option(scheme, sensitivity.size_of(handle, unit, scheme), kl) for scheme, kl in zip(schemes, row, strict=True))
        for unit, row in zip(plan.units, known["kl"], strict=True)
    )
    return Costs(plan, options, fixed_bytes(handle, plan), known["alone"], known["together"], known["others"])


def schemes_for(body: Scheme, fewest_bits: int, zero_points: bool) -> list[Scheme]:
    """Those that a unit may get; zero points, an eighth of a bit more a weight in groups of 32, fill some of the gap below 8."""
    kinds = (*THREE_BITS, *CANDIDATES) if fewest_bits == 3 else CANDIDATES
    plain = [replace(body, bits=bits, group=group) for bits, group in kinds]
    return plain + [replace(scheme, symmetric=False) for scheme in plain if zero_points and scheme.bits < 8]


def _units(handle: ModelHandle, measured: Sequence[Measured]) -> dict[str, TensorRef]:
    """Every unit's weights, rounded as each was alone."""
    rounded = [(f"{name}.weight", unit.scheme, unit.importance.get(name)) for unit in measured for name in unit.unit]
    return {name: _read_as(handle.tensors[name], partial(_rounded, scheme=s, importance=i)) for name, s, i in rounded}


def _others(handle: ModelHandle, plan: Plan) -> dict[str, TensorRef]:
    """What is in no unit and will not lie as it does, as it will."""
    units = {f"{name}.weight" for unit in plan.units for name in unit}
    items = [item for item in plan.items if item.name not in units]
    reads = dict[str, Callable[[TensorRef], Tensor]]()
    for item in items:
        if item.scheme.bits < 16:
            reads[item.name] = partial(_rounded, scheme=item.scheme, importance=None)
        elif handle.tensors[item.name].quantized:
            reads[item.name] = _narrowed
    return {name: _read_as(handle.tensors[name], read) for name, read in reads.items()}


def _narrowed(ref: TensorRef) -> Tensor:
    return dense(ref.read()).bfloat16()


def _read_as(ref: TensorRef, read: Callable[[TensorRef], Tensor]) -> TensorRef:
    return replace(ref, read=partial(read, ref))


def _divergence(handle: ModelHandle, changed: Mapping[str, TensorRef], windows: Tensor) -> float:
    """Of the model with these tensors changed."""
    if not changed:
        return 0.0
    small = HandlePredictor(replace(handle, tensors={**handle.tensors, **changed}), windows)
    found = compare(HandlePredictor(handle, windows), small, Windows(windows, (Text("calibration", "", len(windows)),)))
    return max(float(str(found["kl"])), 0.0)


def _rounded(ref: TensorRef, scheme: Scheme, importance: Tensor | None) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # it would not reach the threads that round
        return sensitivity.rounded(dense(ref.read()).float(), scheme, importance)


def windows_of(windows: Tensor) -> Tensor:
    """What is looked at of a calibration text: as much as `quantize --to-size` looks at."""
    length = min(windows.shape[1], LENGTH)
    flat = windows.flatten()
    count = min(TOKENS, len(flat)) // length
    return flat[: count * length].view(count, length)


def seconds_for(handle: ModelHandle) -> float:
    """A rough time for `measure`."""
    return sensitivity.seconds_for(handle, len(make_plan(handle, QuantizeSpec(scheme="int4")).units), TOKENS)
