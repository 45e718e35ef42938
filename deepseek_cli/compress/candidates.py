"""The candidates for one shape: each rung of the ladder, and a mixture of schemes that fills the goal; with predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from deepseek_cli.compress.costs import MIXED, Costs
from deepseek_cli.compress.plan import LADDER, LAST, Candidate
from deepseek_cli.compress.shape import Shape
from deepseek_cli.handle import ModelHandle
from deepseek_cli.profile.estimate import beside_weights
from deepseek_cli.profile.sketch import sketch_of
from deepseek_cli.quantize.method import resolve, seconds_for
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.spec import QuantizeSpec


@dataclass(frozen=True, slots=True)
class Planned:
    """A candidate with all that it takes to carry it out."""

    candidate: Candidate
    shape: Shape
    spec: QuantizeSpec
    distribution: Mapping[str, Any] | None = None
    budget: int = 0  # of a mixture: what the tensors may take


@dataclass(frozen=True, slots=True)
class Planner:
    """`beside` is what the folder holds beside tensors; `lost` is the divergence of the shape before anything is rounded."""

    shape: Shape
    steps: str
    calibration: str
    goal: int
    beside: int
    level: str = "balanced"
    algorithm: str | None = None
    fewest_bits: int = 4
    lost: float | None = 0.0
    costs: Costs | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)  # to make any with 4-bit weights, by level

    def ladder(self) -> list[Planned]:
        """From most to fewest bytes."""
        rungs = (*LADDER, LAST) if self.fewest_bits == 3 else LADDER
        found = (self._planned(self.spec(scheme, embeddings)) for scheme, embeddings in rungs)
        return sorted(found, key=lambda planned: -planned.candidate.size_bytes)

    def mixture(self, budget: int | None = None, level: str = "") -> list[Planned]:
        """One whose tensors fill `budget`, by default all that the goal leaves them; none where no mixture is that small."""
        budget = self.goal - self.beside if budget is None else budget
        found = self.costs.mixed(budget) if self.costs else None
        if not found:
            return []
        spec = self.spec("int4", level=level)
        kl = None if self.lost is None else self.lost + found.kl
        size = found.size_bytes + self.beside
        candidate = Candidate(MIXED, MIXED, size, size <= self.goal, self.steps, level_of(spec), kl)
        return [self._predicted(Planned(candidate, self.shape, spec, found.record(), budget))]

    def spec(self, scheme: str, embeddings: str = "int8", level: str = "") -> QuantizeSpec:
        text = "builtin" if scheme.startswith("int8") else self.calibration
        how: dict[str, Any] = {"qat": True} if level == "qat" else {"level": level or self.level, "algorithm": self.algorithm}
        return QuantizeSpec(scheme=scheme, embeddings=embeddings, calibration=text, **how, report=False)

    def _planned(self, spec: QuantizeSpec) -> Planned:
        plan = make_plan(self.shape.handle, spec)
        size = plan.bytes_with(self.shape.handle.tensors) + self.beside
        kl = self.lost + self.costs.kl_of(plan) if self.costs and self.lost is not None else None
        candidate = Candidate(str(spec.scheme), spec.embeddings, size, size <= self.goal, self.steps, level_of(spec), kl)
        return self._predicted(Planned(candidate, self.shape, spec))

    def _predicted(self, planned: Planned) -> Planned:
        """With the memory to run it, and the time to make it; eight bits throughout take next to none.

        What bundles hold of three bits is not what lies in the folder, so that nothing is said of their memory.
        """
        memory = None
        if self.fewest_bits > 3:
            memory = planned.candidate.size_bytes - self.beside + beside_weights(sketch_of(self.shape.handle))
        seconds = 0.0 if planned.candidate.scheme.startswith("int8") else self.seconds.get(planned.candidate.level)
        return replace(planned, candidate=replace(planned.candidate, memory_bytes=memory, seconds=seconds))


def level_of(spec: QuantizeSpec) -> str:
    return "qat" if spec.qat else spec.level


def seconds_to_make(handle: ModelHandle, spec: QuantizeSpec) -> float:
    return seconds_for(handle, resolve(handle, spec, make_plan(handle, spec)))
