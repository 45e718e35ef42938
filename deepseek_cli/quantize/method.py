"""What a level comes to for one model: the algorithm, the text it looks at, and how long that will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.cost import count, count_draft
from deepseek_cli.ops.torch_parts import fastest_dtype
from deepseek_cli.quantize import rtn, search
from deepseek_cli.quantize.algorithms import LEVELS, Algorithm, find_algorithm
from deepseek_cli.quantize.calibration import Calibration, read_calibration
from deepseek_cli.quantize.plan import Item, Plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer

TOKENS = 16_384  # where an algorithm is named and nothing says how many
LONG_SECONDS = 3600  # what takes longer is asked about
OVERHEAD = 2.0  # of the products that are counted, over the time that they take alone


@dataclass(frozen=True, slots=True)
class Method:
    """`calibrated` are the tensors that are rounded block by block, by `algorithm`; the others are rounded one by one."""

    algorithm: Algorithm
    calibration: Calibration | None = None
    calibrated: tuple[Item, ...] = ()

    def record(self) -> dict[str, Any]:
        text = self.calibration
        known = {"calibration": text.name, "calibration_sha256": text.sha256, "tokens": text.windows.numel()} if text else {}
        return {"algorithm": self.algorithm.name, **known}

    def rounding(self, item: Item) -> Callable[..., Any]:
        """How an item is rounded that calibration does not meet. Eight bits lose nothing that a search could win back."""
        if self.algorithm.needs == "nothing" and self.algorithm.name != "search":
            return self.algorithm.quantize
        return search.quantize if item.scheme.bits < 8 else rtn.quantize


def resolve(handle: ModelHandle, spec: QuantizeSpec, plan: Plan, reporter: Reporter = SILENT) -> Method:
    """The method that level and algorithm come to. Where nothing has fewer than 8 bits a level needs no calibration.

    Raises UsageError for an unknown algorithm, or a calibration text that does not serve.
    """
    level = LEVELS[spec.level]
    algorithm = find_algorithm(spec.algorithm or level.algorithm, reporter)
    blocks = {f"{name}.weight" for name in inner_linears(handle)}
    most = 8 if spec.algorithm else 4
    items = tuple(item for item in plan.items if item.scheme.bits <= most and item.name in blocks)
    if algorithm.needs == "nothing" or not items:
        given = [flag for flag, value in (("--tokens", spec.tokens), ("--language", spec.language)) if value]
        if given or spec.calibration != "builtin":
            raise UsageError(
                "{flag} is for algorithms that look at text, and {algorithm} needs none.",
                hint="Leave it out, or use --level balanced.",
                flag=given[0] if given else "--calibration",
                algorithm=algorithm.name,
            )
        return Method(algorithm if algorithm.needs == "nothing" else find_algorithm("rtn"))
    tokens = spec.tokens or (level.tokens if algorithm.name == level.algorithm else TOKENS)
    calibration = read_calibration(open_tokenizer(handle.root), spec.calibration, tokens, handle.config.context, spec.language)
    return Method(algorithm, calibration, items)


def inner_linears(handle: ModelHandle) -> set[str]:
    """Weights of products within blocks, without `.weight`: neither embedding nor head."""
    cost = count(handle.architecture, handle.config)
    draft = count_draft(handle.architecture, handle.config)
    return {*cost.linears, *draft.linears} - {*cost.embeddings, "lm_head"}


def seconds_for(handle: ModelHandle, method: Method) -> float:
    """A rough time for calibration and rounding, from the rate at which this machine multiplies."""
    if method.calibration is None:
        return 0.0
    tokens = method.calibration.windows.numel()
    streams = 2 if method.algorithm.needs == "both" else 1
    forward = 2 * handle.parameters * tokens * streams
    hessians = sum(2 * tokens * inputs**2 * streams + 3 * inputs**3 for inputs in _inputs(method).values())
    rounding = sum(4 * item.shape[0] * item.shape[1] ** 2 for item in method.calibrated)
    return OVERHEAD * (forward + hessians + rounding) / _rate()


def _inputs(method: Method) -> dict[str, int]:
    """The width of each input that a Hessian is gathered of; projections of one place share theirs."""
    widths: dict[str, int] = {}
    for item in method.calibrated:
        place, _, projection = item.name.removesuffix(".weight").rpartition(".")
        shared = "in" if projection in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj") else projection
        widths[f"{place}.{shared}"] = item.shape[1]
    return widths


def _rate() -> float:
    """Operations a second of products as calibration makes them."""
    x, weight = torch.randn(2048, 1024, dtype=fastest_dtype()), torch.randn(1024, 1024, dtype=fastest_dtype())
    x @ weight
    start = time.perf_counter()
    for _ in range(4):
        x @ weight
    return 4 * 2 * 2048 * 1024**2 / (time.perf_counter() - start)
