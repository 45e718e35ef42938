"""How weights can be rounded, and what each level of effort does. Plug-ins add algorithms by entry point.

An algorithm is a function (weight [out, in], scheme, statistics) that gives a QuantizedTensor, `statistics` being what it
needs: nothing, the weight's inputs on the calibration text, or those beside the inputs in the original model. One that also
moves scales into the norm before a weight is an `Algorithm`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from deepseek_cli.errors import UsageError
from deepseek_cli.plugins import find, load
from deepseek_cli.reporter import SILENT, Reporter

Needs = Literal["nothing", "inputs", "both"]

ALGORITHMS: dict[str, tuple[str, Needs, str]] = {
    "rtn": ("deepseek_cli.quantize.rtn:quantize", "nothing", "round to nearest, scales from the largest magnitudes"),
    "search": ("deepseek_cli.quantize.search:quantize", "nothing", "round to nearest, at the scales that cost least"),
    "hqq": ("deepseek_cli.quantize.hqq:quantize", "nothing", "scales and zero points that serve most values, not the largest"),
    "imatrix": ("deepseek_cli.quantize.search:quantize", "inputs", "search, each input counting by its mean square"),
    "awq": ("deepseek_cli.quantize.awq:AWQ", "inputs", "imatrix, after weights of large inputs grew and the norm shrank"),
    "gptq": ("deepseek_cli.quantize.gptq:quantize", "inputs", "each column's error made good by the columns to come"),
    "gptaq": ("deepseek_cli.quantize.gptq:quantize", "both", "gptq, towards the outputs of the original model"),
    "refine": ("deepseek_cli.quantize.refine:quantize", "both", "gptaq, then each code and scale reconsidered"),
    "autoround": ("deepseek_cli.quantize.autoround:quantize", "both", "rounding and scales learned by the signs of gradients"),
}


@dataclass(frozen=True, slots=True)
class Level:
    """`algorithm` on `tokens` of text, for bodies of 4 bits; for 8 `fast` does all there is to do.

    Then `steps` of distillation, in which a scale moves by up to `rate` of itself: the scales of the whole model learn towards
    the original's predictions.
    """

    algorithm: str
    tokens: int
    steps: int = 0
    rate: float = 1e-3


LEVELS: dict[str, Level] = {
    "fast": Level("imatrix", 2_048),
    "balanced": Level("gptaq", 16_384),
    "best": Level("refine", 65_536),
}
QAT = Level("refine", 131_072, steps=240)  # of 8 bits too


@dataclass(frozen=True, slots=True)
class Algorithm:
    """`fold` takes what `quantize` takes, the weight being rows of all that one norm feeds, and gives a scale per input, [in].

    The norm is divided by it, and `quantize` gets the weights multiplied by it, where that does better than leaving it.
    """

    name: str
    quantize: Callable[..., Any]
    needs: Needs
    fold: Callable[..., Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process finds it by its name, be it ours or a plug-in's."""
        return find_algorithm, (self.name,)


def find_algorithm(name: str, reporter: Reporter = SILENT) -> Algorithm:
    """Raises UsageError for a name that neither we nor a plug-in know."""
    path, needs, _ = ALGORITHMS.get(name, ("", "inputs", ""))
    found = load(path) if path else find("deepseek.algorithms", name, reporter)
    if found is None:
        raise UsageError(
            "There is no algorithm named {name!r}.",
            hint="There are {known}; a plug-in can add more.",
            name=name,
            known=", ".join(ALGORITHMS),
        )
    return replace(found, name=name) if isinstance(found, Algorithm) else Algorithm(name, found, getattr(found, "needs", needs))
