"""deepseek bench"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepseek_cli.bench.spec import BenchSpec
from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import reference
from deepseek_cli.output import Line, Result, Table

ARGUMENTS = ("models*",)
COMMON = ("strict", "threads", "context", "memory", "seed", "device", "memory_profile", "optimize_memory")
SPEC = BenchSpec
EXAMPLES = [
    "deepseek bench smollm2@int4-g32-balanced+cpu",
    "deepseek bench smollm2@int4-g32-balanced+cpu smollm2 --rounds 10 --save speed.md",
    "deepseek bench smollm2@int4-g64-balanced+cpu --prompt-tokens 128 --depth 0,1024,2048 --save speed.json",
]


def run(call: Call) -> Result:
    spec, common = call.spec, call.common
    refs = call.arguments["models"] or (reference(call, "any"),)
    from deepseek_cli.bench.measure import bench
    from deepseek_cli.bench.report import check_writable, save

    for file in spec.save:
        check_writable(file, common.force)
    document, error = bench(
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
    for file in spec.save:
        save(document, file)
    data = {**document, "saved": spec.save}
    quiet = str(spec.save[0]) if spec.save else ""
    return Result(data, list(_lines(document, call)), quiet=quiet, error=error)


def _lines(document: dict[str, Any], call: Call) -> Iterator[Line | Table]:
    from deepseek_cli.bench.report import machine_line, table

    yield Table(*table(document))
    rounds = call.spec.rounds
    yield Line("Median ± median absolute deviation of {rounds} rounds; ratios are paired, round by round.", rounds=rounds)
    yield Line("{machine}", machine=machine_line(document))
    for name, metric in document["metrics"].items() if call.common.verbose else ():
        yield Line("{name} [{unit}]: {formula}", name=name, unit=metric["unit"], formula=metric["formula"])
    for file in call.spec.save:
        yield Line("{path} is written.", path=file)
