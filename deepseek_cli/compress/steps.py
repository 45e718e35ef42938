"""What makes a model smaller beside rounding. Plug-ins add steps by the entry point `deepseek.steps`.

A step first ranks what could go, once; then it cuts a share of that, for any share, without touching a file: the result is a
`Shape` whose tensors are views of the model's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepseek_cli.errors import UsageError
from deepseek_cli.plugins import find, load
from deepseek_cli.reporter import SILENT, Reporter

QUANTIZE = "quantize"  # always the last; named to be asked for alone

STEPS: dict[str, tuple[str, str]] = {  # in the order in which they are taken
    "mtp": ("deepseek_cli.compress.mtp:STEP", "drop the layer that drafts tokens ahead"),
    "vocabulary": ("deepseek_cli.compress.vocabulary:STEP", "drop tokens that the calibration text does not use"),
    "experts": ("deepseek_cli.compress.experts:STEP", "drop experts, or merge them into those that stay, which are fitted anew"),
    "depth": ("deepseek_cli.compress.depth:STEP", "drop the layers whose absence changes predictions least"),
    "width": ("deepseek_cli.compress.width:STEP", "drop channels of the MLPs, the others making good for them"),
    "heads": ("deepseek_cli.compress.heads:STEP", "drop attention heads, in groups that share keys and values"),
    "sparsity": ("deepseek_cli.compress.sparsity:STEP", "set weights to zero, the others making good: a share, or 2:4"),
    "recover": ("deepseek_cli.compress.recover:STEP", "let what is left learn from the original, for a time such as 20m"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """`rank(shape, context)` says what could go; `cut(shape, rank, amount, context)` lets it go.

    `amount` is what the user wrote behind the name, or one of `shares`; a step without shares does all that it can without one.

    `refuse(shape, amount)` raises UsageError where a model has nothing of the kind, or the amount cannot be.
    """

    rank: Callable[..., Any]
    cut: Callable[..., Any]
    refuse: Callable[..., None] = lambda shape, amount: None
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """A step as a plan has it."""

    name: str
    amount: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.amount}" if self.amount else self.name


def find_step(name: str, reporter: Reporter = SILENT) -> Step:
    """Raises UsageError for a name that neither we nor a plug-in know."""
    path, _ = STEPS.get(name, ("", ""))
    found: Step | None = load(path) if path else find("deepseek.steps", name, reporter)
    if found is None:
        raise UsageError(
            "There is no step named {name!r}.",
            hint="There are {known}; a plug-in can add more.",
            name=name,
            known=", ".join((*STEPS, QUANTIZE)),
        )
    return found


def parse_steps(text: str) -> tuple[Cut, ...]:
    """Read "experts=50%,mtp", in the order in which they are taken. Raises UsageError for a step that is named twice."""
    words = [word.strip().partition("=") for word in text.split(",") if word.strip()]
    cuts = [Cut(name.strip(), amount.strip()) for name, _, amount in words if name.strip() != QUANTIZE]
    names = [cut.name for cut in cuts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError("--steps names {name} twice.", hint="Name each step once.", name=twice)
    order = list(STEPS)
    return tuple(sorted(cuts, key=lambda cut: order.index(cut.name) if cut.name in order else len(order)))


def parse_share(step: str, text: str) -> float:
    """The share of "25%". Raises UsageError for what is not between 0 and 100 %."""
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else -1.0
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise UsageError(
            "--steps {step}={text}: how much of it goes is a percentage between 0 and 100.",
            hint="For example: --steps {step}=25%",
            step=step,
            text=text,
        )
    return share


def format_share(share: float) -> str:
    return f"{100 * share:g}%"
