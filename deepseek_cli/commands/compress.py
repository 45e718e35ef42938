"""deepseek compress"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._report import quality_gates, report_lines
from deepseek_cli.commands._subject import model_subject, shown, store_of
from deepseek_cli.commands.quantize import limit_threads
from deepseek_cli.compress.spec import GATE, CompressSpec
from deepseek_cli.i18n import language, say
from deepseek_cli.output import Line, Result, Table

if TYPE_CHECKING:
    from deepseek_cli.compress.plan import Candidate

ARGUMENTS = ("model?",)
COMMON = ("dry_run", "strict", "threads", "memory")
SPEC = CompressSpec
EXAMPLES = [
    "deepseek compress smollm2 --smaller 85%",
    "deepseek compress ./my-model --to-size 900MB --dry-run",
    "deepseek compress ./my-model --fit 'iPhone 16' --steps experts=50%,mtp",
    "deepseek compress smollm2 --smaller 85% --max-accuracy-loss 0.012 --text held-out.txt --time 2h --html report.html",
]


def run(call: Call) -> Result:
    model = model_subject(call, "source")
    from deepseek_cli.compress.engine import compress
    from deepseek_cli.compress.page import check_place, write_page
    from deepseek_cli.compress.result import record

    limit_threads(call.common.threads)
    common, html = call.common, call.spec.html
    if html:
        check_place(html, common.force)
    done = compress(
        model,
        call.spec,
        store_of(call),
        common.output,
        force=common.force,
        dry_run=common.dry_run,
        agreed=common.yes,
        reporter=call.reporter,
    )
    result = done.result
    if html and not common.dry_run:
        write_page(html, done, model, store_of(call), call.spec.fit, say, language())
    data = {
        "name": result.name,
        "path": result.path,
        "goal_bytes": done.goal_bytes,
        "bytes": done.folder_bytes,
        "met": done.met,
        "frontier": record(done),
        "decisions": list(done.decisions),
        "report": result.manifest.report if result.manifest else None,
        "html": None if common.dry_run else html,
    }
    sentence = (
        "{name}: {mb} MB, within the goal of {goal} MB."
        if done.met
        else "{name}: {mb} MB is the closest, and above the goal of {goal} MB."
    )
    report = result.manifest.report if result.manifest else None
    failed = list(quality_gates(call.spec, {**report, **report.get(GATE, {})})) if report and "kl" in report else []
    lines: list[str | Line | Table] = [
        _frontier(done.frontier),
        *report_lines(report),
        *_checks(report or {}),
        *failed,
        Line(sentence, name=result.name, mb=round(done.folder_bytes / 1e6, 1), goal=round(done.goal_bytes / 1e6, 1)),
    ]
    quiet = shown(call, result.name, result.path)
    code = 0 if done.met and not failed else 1
    return Result(data, lines, quiet=quiet, exit_code=code, next=f"deepseek deploy {quiet} --target cpu")


def _checks(report: Mapping[str, Any]) -> Iterator[Line]:
    """What is measured beside the report card."""
    if gate := report.get(GATE):
        yield Line(
            "Accuracy over {tokens} tokens of {text}: {before:.2%} → {after:.2%}, a relative loss of {least:.2%} to {most:.2%}.",
            tokens=gate["tokens"],
            text=gate["text"],
            before=gate["reference_accuracy"],
            after=gate["accuracy"],
            least=gate["accuracy_loss_least"],
            most=gate["accuracy_loss_most"],
        )
    sanity = report.get("sanity", {})
    if "result" in sanity:
        before, after = sanity["original"], sanity["result"]
        yield Line(
            "Of {count} answers {end} come to an end (the original's: {end_before}), "
            "{repeat} repeat themselves ({repeat_before}).",
            count=after["answers"],
            end=after["end"],
            end_before=before["end"],
            repeat=after["repeat"],
            repeat_before=before["repeat"],
        )


def _frontier(candidates: Sequence[Candidate]) -> Table:
    """Columns that no candidate fills are left out."""
    levels = {c.level for c in candidates}
    rows = [
        [
            c.steps or None,
            c.scheme,
            c.embeddings,
            c.level if len(levels) > 1 else None,
            round(c.size_bytes / 1e6, 1),
            None if c.kl is None else f"{c.kl:.4f}",
            None if c.measured_kl is None else f"{c.measured_kl:.4f}",
            None if c.memory_bytes is None else round(c.memory_bytes / 1e6),
            round(c.seconds / 60, 1) if c.seconds else None,
            "yes" if c.fits else "no",
        ]
        for c in candidates
    ]
    whole = Table(
        ["left out", "scheme", "embeddings", "level", "MB", "predicted KL", "measured KL", "memory", "minutes", "fits"], rows
    )
    filled = [i for i in range(len(whole.headers)) if any(row[i] is not None for row in rows)]
    shown_rows = [["–" if row[i] is None else row[i] for i in filled] for row in rows]
    return replace(whole, headers=[whole.headers[i] for i in filled], rows=shown_rows)
