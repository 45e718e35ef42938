"""deepseek eval"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._report import quality_gates, report_lines
from deepseek_cli.commands._subject import store_of, subject
from deepseek_cli.errors import UsageError
from deepseek_cli.output import Result
from deepseek_cli.spec import option

ARGUMENTS = ("model?",)
COMMON = ("threads", "memory")


@dataclass(frozen=True, slots=True)
class EvalSpec:
    against: str | None = option(None, help="the reference; by default what the model was made from", metavar="MODEL")
    text: str | None = option(None, help="a text file to measure on, instead of the built-in one", metavar="FILE")
    windows: int = option(16, help="windows of 256 tokens")
    max_kld: float | None = option(None, help="exit with 1 when the KL divergence is above this")
    max_accuracy_loss: float | None = option(None, help="exit with 1 unless next-token accuracy surely falls by less, relatively")

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise UsageError("--windows {count} is less than one.", hint="Give at least 1.", count=self.windows)


SPEC = EvalSpec
EXAMPLES = ["deepseek eval smollm2@int4-g32-balanced", "deepseek eval my-bundle --against ./my-model --max-kld 0.1"]


def run(call: Call) -> Result:
    model = subject(call, "any")
    from deepseek_cli.eval_engine import evaluate

    spec: EvalSpec = call.spec
    report = evaluate(model, spec.against, store_of(call), spec.text, spec.windows, call.common.threads, call.reporter)
    failed = list(quality_gates(spec, report))
    return Result(
        {"report": report, "gates": [line.template for line in failed]},
        [*report_lines(report), *failed],
        quiet=f"{report['kl']:.6f}",
        exit_code=1 if failed else 0,
    )
