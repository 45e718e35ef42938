"""deepseek bench"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepseek_cli.bench.load import is_url
from deepseek_cli.bench.spec import BenchSpec
from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import reference
from deepseek_cli.commands.serve import require_server
from deepseek_cli.errors import DeepseekError, UsageError
from deepseek_cli.output import Line, Result, Table

ARGUMENTS = ("models*",)
COMMON = ("strict", "threads", "context", "memory", "seed", "device", "memory_profile", "optimize_memory")
SPEC = BenchSpec
EXAMPLES = [
    "deepseek bench smollm2@int4-g32-balanced+cpu",
    "deepseek bench smollm2@int4-g32-balanced+cpu smollm2 --rounds 10 --quality --save speed.svg",
    "deepseek bench smollm2@int4-g64-balanced+cpu --prompt-tokens 128,512 --depth 0,1024,2048 --save speed.json",
    "deepseek bench smollm2@int4-g64-balanced+cpu --baseline speed.json --max-slowdown 5%",
    "deepseek bench --serve smollm2@int4-g32-balanced+cpu --load 1,16,4/s",
    "deepseek bench --serve http://127.0.0.1:8000 --load 8 --prompt-tokens 128",
]


def run(call: Call) -> Result:
    spec, common = call.spec, call.common
    from deepseek_cli.bench.gates import SLOWER, UNSURE
    from deepseek_cli.bench.report import check_writable, gate_line, save

    for file in spec.save:
        check_writable(file, common.force)
    document, error = _servers(call) if spec.serve else _models(call)
    for file in spec.save:
        save(document, file)
    for check in document["gates"]:
        if check.verdict in UNSURE:
            call.reporter.warn("Inconclusive: {finding}.", finding=gate_line(check))
    slower = any(check.verdict == SLOWER for check in document["gates"])
    quiet = str(spec.save[0]) if spec.save else ""
    data = {**document, "saved": spec.save}
    return Result(data, list(_lines(document, call)), quiet=quiet, exit_code=int(slower), error=error)


def _servers(call: Call) -> tuple[dict[str, Any], DeepseekError | None]:
    spec, common = call.spec, call.common
    if call.arguments["models"]:
        model = call.arguments["models"][0]
        raise UsageError("--serve names what is measured; MODEL {model} is too much.", hint="Give one of them.", model=model)
    if not all(is_url(ref) for ref in spec.serve):
        require_server()
    from deepseek_cli.bench.serve import bench_servers

    return bench_servers(
        spec,
        home=call.settings.home,
        context=common.context,
        threads=common.threads,
        memory=common.memory,
        seed=common.seed or 0,
        reporter=call.reporter,
    )


def _models(call: Call) -> tuple[dict[str, Any], DeepseekError | None]:
    spec, common = call.spec, call.common
    refs = call.arguments["models"] or (reference(call, "any"),)
    from deepseek_cli.bench.measure import bench

    return bench(
        refs,
        spec,
        home=call.settings.home,
        context=common.context,
        threads=common.threads,
        device=common.device,
        seed=common.seed or 0,
        most=common.memory if common.optimize_memory else None,
        reporter=call.reporter,
    )


def _lines(document: dict[str, Any], call: Call) -> Iterator[Line | Table]:
    from deepseek_cli.bench.gates import UNSURE
    from deepseek_cli.bench.report import gate_line, machine_line, reasons, roof_line, table
    from deepseek_cli.bench.statistics import LEAST, SAME_SLOT

    every, rounds = bool(call.common.verbose), call.spec.rounds
    yield Table(*table(document, every=every))
    yield Line("Median ± median absolute deviation of {rounds} rounds; ratios are paired, round by round.", rounds=rounds)
    if rounds < LEAST + SAME_SLOT:
        few = "Intervals need {least} rounds, the noise {more}."
        yield Line(few, least=LEAST, more=LEAST + SAME_SLOT)
    if document["roofline"]:
        yield Line("(%) is the share of what this machine allows: {limits}.", limits=roof_line(document))
    for arm, names, reason in reasons(document, every=every):
        yield Line("{model}: {metrics} not measured: {reason}.", model=arm, metrics=names, reason=reason)
    yield Line("{machine}", machine=machine_line(document))
    for name, metric in document["metrics"].items() if every else ():
        yield Line("{name} [{unit}]: {formula}", name=name, unit=metric["unit"], formula=metric["formula"])
    for name, formula in document["statistics"].items() if every else ():
        yield Line("{name}: {formula}", name=name, formula=formula)
    for check in document["gates"]:
        if check.verdict not in UNSURE:  # which stand on stderr
            yield Line("{finding}.", finding=gate_line(check))
    for file in call.spec.save:
        yield Line("{path} is written.", path=file)
