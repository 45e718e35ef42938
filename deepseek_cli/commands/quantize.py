"""deepseek quantize"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._report import report_lines
from deepseek_cli.commands._subject import model_subject, shown, store_of
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.quantize.spec import QuantizeSpec

if TYPE_CHECKING:
    from deepseek_cli.quantize.engine import Quantized

ARGUMENTS = ("model?",)
COMMON = ("dry_run", "strict", "threads", "memory", "seed", "engine", "address", "memory_profile")
SPEC = QuantizeSpec
EXAMPLES = [
    "deepseek quantize smollm2 --int4",
    "deepseek quantize ./my-model --int8 -o my-model-int8",
    "deepseek quantize smollm2 --scheme int4-g64 --rule lm_head=int4-g64",
    "deepseek quantize smollm2 --to-bpw 4.5 --dry-run",
]


def run(call: Call) -> Result:
    model = model_subject(call, "source")
    from deepseek_cli.quantize.engine import quantize
    from deepseek_cli.quantize.spread import find_engine

    limit_threads(call.common.threads)
    if not (call.spec.int4 or call.spec.int8 or call.spec.scheme or call.spec.goal):
        call.reporter.note("No scheme is named: --int4.")
    common = call.common
    done = quantize(
        model,
        call.spec if common.seed is None else replace(call.spec, seed=common.seed),
        store_of(call),
        common.output,
        force=common.force,
        dry_run=common.dry_run,
        agreed=common.yes,
        reporter=call.reporter,
        engine=find_engine(common.engine, common.address),
    )
    data = {
        "name": done.name,
        "path": done.path,
        "bytes": done.size_bytes,
        "unchanged": done.unchanged,
        "tensors": [
            {
                "name": i.name,
                "scheme": None if i.kept else str(i.scheme),
                "reason": i.reason or i.instead or None,
                "error": done.errors.get(i.name),
                "rounding": done.notes.get(i.name),
            }
            for i in done.plan.items
        ],
        "frontier": done.frontier or None,
        "report": done.manifest.report if done.manifest else None,
        "readers": done.manifest.readers if done.manifest else None,
    }
    return Result(
        data,
        list(_lines(done)),
        quiet=shown(call, done.name, done.path),
        next=f"deepseek deploy {shown(call, done.name, done.path)} --target cpu",
    )


def _lines(done: Quantized) -> list[str | Line | Table]:
    schemes: dict[str, list[str]] = {}
    for item in done.plan.items:
        schemes.setdefault("kept" if item.kept else str(item.scheme), []).append(item.name)
    rows = []
    for scheme, names in schemes.items():
        errors = [done.errors[n] for n in names if n in done.errors]
        rows.append([scheme, len(names), f"{sum(errors) / len(errors):.4f}" if errors else None, names[0]])
    tables: list[str | Line | Table] = [*_frontier(done), Table(["scheme", "tensors", "mean error", "first"], rows)]
    if done.manifest is None:
        return tables
    sentence = "{name} is up to date, at {path}." if done.unchanged else "{name}: {mb} MB, at {path}."
    line = Line(sentence, name=done.name, mb=round(done.size_bytes / 1e6), path=done.path)
    return [*tables, *report_lines(done.manifest.report), line]


def _frontier(done: Quantized) -> Iterator[Table]:
    """What other sizes would come to, where schemes were chosen by a goal."""
    rows = [
        [
            f"{point['bits_per_weight']:.2f}",
            round(point["size_bytes"] / 1e6, 1),
            f"{point['kl']:.4f}",
            "yes" if point["goal"] else "no",
        ]
        for point in done.frontier
    ]
    if rows:
        yield Table(["bits per weight", "MB", "predicted KL", "chosen"], rows)


def limit_threads(threads: int | None) -> None:
    """PyTorch's threads, where --threads says how many."""
    if threads:
        import torch

        torch.set_num_threads(threads)
