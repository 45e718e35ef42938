"""What a level comes to for one model: the algorithm, the text it looks at, and how long that will take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.cost import count, count_draft
from deepseek_cli.ops.torch_parts import fastest_dtype, product_rate
from deepseek_cli.quantize.algorithms import LEVELS, QAT, Algorithm, find_algorithm
from deepseek_cli.quantize.calibration import Calibration, read_calibration
from deepseek_cli.quantize.plan import Item, Plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer

TOKENS = 16_384  # where an algorithm is named and nothing says how many
BATCH = 4  # windows a step of distillation
LONG_SECONDS = 3600  # what takes longer is asked about
BLOCK_ALGORITHMS = ("imatrix", "search")  # with and without text
EIGENVECTORS = 40  # operations of products that take as long as those of an n × n matrix, over n³
LEARNING = 16  # operations a parameter and token of a step: products, forward twice, are half; scales and losses take as long
OVERHEAD = 2.0  # of the products that are counted, over the time that they take alone


@dataclass(frozen=True, slots=True)
class Method:
    """`calibrated` are the tensors that are rounded block by block, by `algorithm`; the others are rounded one by one."""

    algorithm: Algorithm
    calibration: Calibration | None = None
    calibrated: tuple[Item, ...] = ()
    steps: int = 0  # of distillation, from what calibration makes
    rate: float = 0.0  # of its largest step

    def record(self) -> dict[str, Any]:
        text = self.calibration
        known: dict[str, Any] = {}
        if text:
            known = {"calibration": text.name, "calibration_sha256": text.sha256, "tokens": text.windows.numel()}
            known |= {"conversations": text.conversations, "seed": text.seed}  # conversations in windows
        learned = {"steps": self.steps, "rate": self.rate} if self.steps else {}
        return {"algorithm": self.algorithm.name, **known, **learned}

    def kept_bytes(self, hidden: int) -> int:
        """On disk beside the result while it is made: codes, and activations in front of a block and behind it."""
        if self.calibration is None:
            return 0
        activations = self.calibration.windows.numel() * hidden * fastest_dtype().itemsize
        streams = 2 if self.algorithm.needs == "both" else 1
        return sum(i.scheme.bytes_of(i.shape[0], i.shape[1]) for i in self.calibrated) + 2 * streams * activations

    def rounding(self, item: Item) -> Algorithm:
        """How an item is rounded that calibration does not meet; eight bits to nearest, unless something else was asked for."""
        if self.algorithm.needs == "nothing" and self.algorithm.name != "search":
            return self.algorithm
        return find_algorithm("search" if item.scheme.bits < 8 or item.scheme.block else "rtn")


def resolve(handle: ModelHandle, spec: QuantizeSpec, plan: Plan, reporter: Reporter = SILENT) -> Method:
    """The method that level and algorithm come to. Where nothing has fewer than 8 bits every level does what `fast` does.

    Raises UsageError for an unknown algorithm, or a calibration text that does not serve.
    """
    blocks, head = {f"{name}.weight" for name in inner_linears(handle)}, head_of(handle)
    inner = [i for i in plan.items if (i.name in blocks and i.scheme.bits <= 8) or (i.name == head and i.scheme.bits < 8)]
    level = QAT if spec.qat else LEVELS[spec.level if any(item.scheme.bits < 8 for item in inner) else "fast"]
    if any(item.scheme.block for item in inner):
        _refuse_for_blocks(spec)
        level = replace(level, algorithm="imatrix", steps=0)
    algorithm = find_algorithm(spec.algorithm or level.algorithm, reporter)
    if algorithm.needs == "nothing" or not inner:
        given = [flag for flag, value in _about_text(spec) if value]
        if given or spec.calibration != "builtin":
            raise UsageError(
                "{flag} is for algorithms that look at text, and {algorithm} needs none.",
                hint="Leave it out, or use --level balanced.",
                flag=given[0] if given else "--calibration",
                algorithm=algorithm.name,
            )
        return Method(algorithm if algorithm.needs == "nothing" else find_algorithm("rtn"))
    tokens = spec.tokens or (level.tokens if algorithm.name == level.algorithm else TOKENS)
    calibration = read_calibration(
        open_tokenizer(handle.root), spec.calibration, tokens, handle.config.context, spec.language, spec.seed
    )
    steps = spec.steps if spec.steps is not None else 0 if spec.algorithm and not spec.qat else level.steps
    return Method(algorithm, calibration, tuple(inner), steps, (spec.rate or level.rate) if steps else 0.0)


def _refuse_for_blocks(spec: QuantizeSpec) -> None:
    other = spec.algorithm if spec.algorithm not in (None, *BLOCK_ALGORITHMS) else None
    given = {"--algorithm": other, "--qat": spec.qat, "--set steps": spec.steps}
    if flag := next((flag for flag, value in given.items() if value), None):
        raise UsageError(
            "{flag} is for int4 and int8: ggml's blocks have a search of their own.",
            hint="Leave it out, or name one of {known}.",
            flag=flag if flag != "--algorithm" else f"--algorithm {other}",
            known=", ".join(BLOCK_ALGORITHMS),
        )


def _about_text(spec: QuantizeSpec) -> tuple[tuple[str, Any], ...]:
    return (
        ("--tokens", spec.tokens),
        ("--language", spec.language),
        ("--qat", spec.qat),
        ("--set steps", spec.steps),
        ("--set rate", spec.rate),
    )


def inner_linears(handle: ModelHandle) -> set[str]:
    """Weights of products within blocks, without `.weight`: neither embedding nor head."""
    cost = count(handle.architecture, handle.config)
    draft = count_draft(handle.architecture, handle.config)
    return {*cost.linears, *draft.linears} - {*cost.embeddings, "lm_head"}


def head_of(handle: ModelHandle) -> str:
    """The weight that logits come from, with `.weight`: an embedding where they are tied."""
    return f"{count(handle.architecture, handle.config).head}.weight"


def seconds_for(handle: ModelHandle, method: Method) -> float:
    """A rough time for calibration and rounding, from the rate at which this machine multiplies."""
    if method.calibration is None:
        return 0.0
    tokens = method.calibration.windows.numel()
    streams = 2 if method.algorithm.needs == "both" else 1
    forward = 2 * handle.parameters * tokens * streams
    hessians = sum(2 * tokens * inputs**2 * streams + 3 * inputs**3 for inputs in _inputs(method).values())
    rounding = sum(4 * item.shape[0] * item.shape[1] ** 2 for item in method.calibrated)
    correcting = sum(EIGENVECTORS * min(item.shape) ** 3 for item in method.calibrated if item.scheme.rank)
    learning = LEARNING * handle.parameters * method.steps * BATCH * method.calibration.windows.shape[1]
    return OVERHEAD * (forward + hessians + rounding + correcting + learning) / product_rate(fastest_dtype())


def _inputs(method: Method) -> dict[str, int]:
    """The width of each input that a Hessian is gathered of; projections of one place share theirs."""
    widths: dict[str, int] = {}
    for item in method.calibrated:
        place, _, projection = item.name.removesuffix(".weight").rpartition(".")
        shared = "in" if projection in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj") else projection
        widths[f"{place}.{shared}"] = item.shape[1]
    return widths
