"""deepseek tune"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._report import report_lines
from deepseek_cli.commands._subject import model_subject, shown, store_of
from deepseek_cli.commands.quantize import limit_threads
from deepseek_cli.i18n import language, say
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.tune.spec import TuneSpec

if TYPE_CHECKING:
    from deepseek_cli.quantize.engine import Quantized
    from deepseek_cli.tune.engine import Tuned

ARGUMENTS = ("model?",)
COMMON = ("dry_run", "strict", "threads", "memory", "seed")
SPEC = TuneSpec
EXAMPLES = [
    "deepseek tune smollm2 --trials 60 --time 2h",
    "deepseek tune smollm2 --objective size,kl,speed --space space.toml --html front.html",
    "deepseek tune smollm2 --apply 17",
]


def run(call: Call) -> Result:
    from deepseek_cli.tune.study import require_extra

    require_extra()
    model = model_subject(call, "source")
    from deepseek_cli.tune.engine import apply, tune
    from deepseek_cli.tune.page import check_place, write_page

    spec, common, store = call.spec, call.common, store_of(call)
    limit_threads(common.threads)
    if spec.study is None:
        spec = replace(spec, study=store.home / "studies" / f"{model.name}.journal")
    if spec.html:
        check_place(spec.html, common.force)
    named, made = call.arguments.get("model") or model.name, None
    if spec.apply is None:
        done = tune(model, spec, store, seed=common.seed or 0, force=common.force, dry_run=common.dry_run, reporter=call.reporter)
    else:
        done, made = apply(model, spec, store, common.output, force=common.force, reporter=call.reporter)
    if spec.html and not common.dry_run:
        write_page(spec.html, done, named, spec, say, language())
    quiet = shown(call, made.name, made.path) if made else str(done.file)
    following = f"deepseek deploy {quiet} --target cpu" if made else f"deepseek tune {named} --apply TRIAL"
    return Result(_data(done, made, named, spec), list(_lines(done, made, named, spec)), quiet=quiet, next=following)


def _data(done: Tuned, made: Quantized | None, named: str, spec: TuneSpec) -> dict[str, Any]:
    from deepseek_cli.tune.engine import record

    return {
        "study": done.file,
        "objectives": spec.objectives,
        "space": {parameter.name: parameter.record() for parameter in done.space},
        "trials": [record(trial, named) for trial in done.trials],
        "front": [trial.number for trial in done.front],
        "hypervolume": done.hypervolume,
        "samplers": {arm: {"trials": count, "gained": gain} for arm, (count, gain) in done.gained.items()},
        "html": spec.html,
        "applied": {"trial": spec.apply, "name": made.name, "path": made.path} if made else None,
        "report": made.manifest.report if made and made.manifest else None,
    }


def _lines(done: Tuned, made: Quantized | None, named: str, spec: TuneSpec) -> Iterator[str | Line | Table]:
    from deepseek_cli.tune.recipe import command_line

    if made:
        yield from report_lines(made.manifest.report if made.manifest else None)
        yield Line("{name}: {mb} MB, at {path}.", name=made.name, mb=round(made.size_bytes / 1e6), path=made.path)
        return
    if not done.trials:
        yield Table(["what", "values"], [[parameter.name, str(parameter.record())] for parameter in done.space])
        yield Line("{trials} trials would go into {file}.", trials=spec.trials, file=done.file)
        return
    rows: list[list[Any]] = [
        [
            t.number,
            round(t.facts["size"] / 1e6, 1),
            round(t.facts["speed"] / 1e6, 1),
            f"{t.facts['kl']:.4f}",
            f"{t.facts['agreement']:.1%}",
            t.sampler,
        ]
        for t in done.front
    ]
    yield Table(["trial", "MB", "MB read a token", "KL", "agreement", "sampler"], rows)
    for trial in done.front:
        yield f"{trial.number}: {command_line(named, trial.recipe)}"
    arms = [[arm, count, f"{gain:.4f}"] for arm, (count, gain) in done.gained.items() if arm]
    yield Table(["sampler", "trials", "gained"], arms)
    states = [trial.state for trial in done.trials]
    yield Line(
        "{count} trials, {pruned} of them ended early; {front} are on the front, hypervolume {volume:.4f}.",
        count=len(states) - states.count("interrupted"),
        pruned=states.count("pruned"),
        front=len(done.front),
        volume=done.hypervolume,
    )
