"""deepseek profile"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import reference, store_of, subject
from deepseek_cli.i18n import t
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.profile.spec import ProfileSpec
from deepseek_cli.spec import as_record, fields_of

if TYPE_CHECKING:
    from deepseek_cli.profile.gates import Gate

ARGUMENTS = ("model?",)
COMMON = ("dry_run", "strict", "threads", "context", "device")
SPEC = ProfileSpec
EXAMPLES = [
    "deepseek profile smollm2@int4-g32-balanced+cpu --memory-profile",
    "deepseek profile smollm2 --prompt-tokens 128 --save before.json",
    "deepseek profile smollm2 --baseline before.json --max-growth 5%",
    "deepseek profile ./DeepSeek-V3/config.json --estimate --context 131072 --scheme int4 --html v3.html",
]


def run(call: Call) -> Result:
    if call.spec.estimate:
        return _estimated(call)
    from deepseek_cli.profile.snapshot import is_snapshot

    if (given := call.arguments.get("model")) and is_snapshot(Path(given)):
        return _snapshot(call, Path(given))
    from deepseek_cli.profile.gates import gates, read_baseline
    from deepseek_cli.profile.measure import profile
    from deepseek_cli.profile.report import check_writable, render_html, write
    from deepseek_cli.sources import locate

    spec, common, ref = call.spec, call.common, reference(call, "any")
    page = _page(call, locate(ref, store_of(call)).name)
    baseline = read_baseline(spec.baseline) if spec.baseline else None
    targets = [*([page] if page else []), *spec.save]
    for path in targets:
        check_writable(path, common.force)
    if common.dry_run:
        return _plan(call, targets)
    nodes: list[dict[str, Any]] | None = [] if any(map(is_trace, spec.save)) else None
    document, error = profile(
        ref,
        replace(spec, overhead=spec.overhead or page is not None),  # a page is shown around: it says what watching cost
        home=call.settings.home,
        context=common.context,
        threads=common.threads,
        device=common.device,
        command=_command(call),
        reporter=call.reporter,
        nodes=nodes,
    )
    if page:
        write(page, render_html(document, baseline))
    for path in spec.save:
        write(path, _rendered(path, document, nodes or []))
    if error:
        for path in targets:
            call.reporter.note("{path} holds what was measured until then.", path=path)
        raise error
    checked = gates(document, spec, baseline)
    data = {**document, "peak_bytes": document["peak"]["bytes"], "page": page, "saved": spec.save, "gates": checked}
    quiet = str(targets[0]) if targets else ""
    answer = all(gate.passed for gate in checked) and not (document["leak"] and document["leak"]["leaks"])
    return Result(data, list(_lines(document, checked, targets)), quiet=quiet, exit_code=int(not answer))


def _snapshot(call: Call, file: Path) -> Result:
    """What torch recorded of an accelerator's memory, as a report."""
    from deepseek_cli.profile.gates import gates, read_baseline
    from deepseek_cli.profile.report import check_writable, render_html, write
    from deepseek_cli.profile.snapshot import document

    page = _page(call, file.stem)
    baseline = read_baseline(call.spec.baseline) if call.spec.baseline else None
    targets = [*([page] if page else []), *call.spec.save]
    for path in targets:
        check_writable(path, call.common.force)
    found = document(file, _command(call))
    if page and not call.common.dry_run:
        write(page, render_html(found, baseline))
    for path in call.spec.save if not call.common.dry_run else ():
        write(path, _rendered(path, found, []))
    checked, row = gates(found, call.spec, baseline), found["allocator"][0]
    sizes = [mib(row[key]) for key in ("allocated_bytes", "reserved_bytes", "peak_bytes")]
    table = Table(
        ["in tensors, MiB", "held, MiB", "most in tensors, MiB", "unused of it"], [[*sizes, f"{row['fragmentation']:.1%}"]]
    )
    word = "{path} would be written." if call.common.dry_run else "{path} is written."
    lines: list[str | Line | Table] = [table, *_judged(checked), *(Line(word, path=path) for path in targets)]
    data = {**found, "peak_bytes": found["peak"]["bytes"], "page": page, "saved": call.spec.save, "gates": checked}
    quiet = str(targets[0]) if targets else ""
    return Result(data, lines, quiet=quiet, exit_code=int(not all(gate.passed for gate in checked)))


def is_trace(path: Path) -> bool:
    return path.name.endswith(".trace.json")


def _rendered(path: Path, document: dict[str, Any], nodes: list[dict[str, Any]]) -> str:
    from deepseek_cli.profile.report import render_json, render_markdown
    from deepseek_cli.profile.trace import render_trace

    if is_trace(path):
        return render_trace(document, nodes)
    return render_json(document) if path.suffix == ".json" else render_markdown(document)


def _estimated(call: Call) -> Result:
    from deepseek_cli.commands._estimate import run_estimate
    from deepseek_cli.sources.catalogue import by_alias

    ref = call.arguments.get("model") or reference(call, "any")  # a bare config is nothing that `reference` would find
    if entry := by_alias(ref):
        call.reporter.note("{alias} is {ref} in the catalogue.", alias=ref, ref=entry.ref)
    return run_estimate(call, ref, store_of(call), _command(call))


def _page(call: Call, name: str) -> Path | None:
    """Where the page goes: --html, or -o, or <name>-memory.html with --memory-profile."""
    return call.spec.html or call.common.output or (Path(f"{name}-memory.html") if call.spec.memory_profile else None)


def _command(call: Call) -> str:
    """The command as someone else could type it."""
    fields, words = (
        fields_of(ProfileSpec),
        ["deepseek", "profile", *([call.arguments["model"]] if call.arguments.get("model") else [])],
    )
    for name, value in as_record(call.spec).items():
        for item in value if isinstance(value, list) else [value]:
            words += [fields[name].flags[-1]] if item is True else [fields[name].flags[-1], str(item)]
    words += ["--context", str(call.common.context)] if call.common.context else []
    return shlex.join(words)


def _plan(call: Call, targets: list[Path]) -> Result:
    from deepseek_cli.profile.measure import expected, packs

    model, spec = subject(call, "any"), call.spec
    phases = expected(packs(model.ref, call.settings.home))
    lines = [
        Line(
            "{model} would be measured in a fresh process ({phases}): {prompt} tokens in, {new} out.",
            model=model.name,
            phases=", ".join(t(phase) for phase in phases),
            prompt=spec.prompt_tokens,
            new=spec.new_tokens,
        ),
        *(Line("{path} would be written.", path=path) for path in targets),
    ]
    return Result({"model": model.name, "phases": list(phases), "files": targets}, lines)


def _lines(document: dict[str, Any], checked: list[Gate], targets: list[Path]) -> Iterator[str | Line | Table]:
    from deepseek_cli.profile.parts import PARTS

    yield Table(
        ["phase", "seconds", "tokens/s", "resident MiB", "anonymous", "file-backed", "peak MiB"],
        [
            [
                t(p["phase"]),
                round(p["seconds"], 2),
                p["tokens_per_second"] and round(p["tokens_per_second"], 1),
                *(mib(p[key]) for key in ("rss_bytes", "anonymous_bytes", "file_bytes", "peak_bytes")),
            ]
            for p in document["phases"]
        ],
    )
    peak = document["moments"][0]
    yield ""
    rows = [
        [t(PARTS.get(p["part"], p["part"])), mib(p["bytes"]), f"{p['bytes'] / peak['bytes']:.1%}"]
        for p in peak["parts"]
        if p["bytes"]
    ]
    yield Table(["where the bytes are", "MiB", "share"], [*rows, [t("resident memory"), mib(peak["bytes"]), "100.0%"]])
    yield ""
    yield Line("The peak was {peak} MiB, during {phase}.", peak=mib(peak["bytes"]), phase=t(peak["phase"]))
    if document["estimate"]:
        yield ""
        yield Table(
            ["against its estimate", "estimated MiB", "measured MiB", "error"],
            [estimate_row(row) for row in document["estimate"]["rows"]],
        )
        yield ""
    yield from _notes(document)
    yield from _judged(checked)
    for path in targets:
        yield Line("{path} is written.", path=path)


def _judged(checked: list[Gate]) -> Iterator[Line]:
    for gate in checked:
        word = "{gate}: {peak} MiB is within {limit} MiB." if gate.passed else "{gate}: {peak} MiB is above {limit} MiB."
        yield Line(word, gate=f"--{gate.name}", peak=mib(gate.peak_bytes), limit=mib(gate.limit_bytes))


def _notes(document: dict[str, Any]) -> Iterator[Line]:
    """What watching cost, and what the leak test found."""
    cost, leak = document["overhead"], document["leak"]
    if cost:
        yield Line(
            "Watching cost {share} of the time of prefill and decode ({processor} of processor time).", **_slower(cost, "sampled")
        )
    if cost and cost["profiled_seconds"]:
        yield Line(
            "Figures of each node cost {share} ({processor} of processor time), in a run of their own: "
            "of the prompt, and of {steps} of {all} steps after it.",
            **_slower(cost, "profiled"),
            steps=document["traced"]["decode_steps"],
            all=document["traced"]["of_steps"],
        )
    if leak:
        word = (
            "Memory grows by {slope} KiB each time ({low} to {high}, {count} times): it leaks."
            if leak["leaks"]
            else "No leak: memory grows by {slope} KiB each time ({low} to {high}, {count} times)."
        )
        slope, low, high = (f"{leak[key] / 1024:,.1f}" for key in ("slope_bytes", "low_bytes", "high_bytes"))
        yield Line(word, slope=slope, low=low, high=high, count=leak["iterations"])


def _slower(cost: dict[str, float], run: str) -> dict[str, str]:
    """Than the run that nothing watched."""
    more = lambda clock: f"{cost[f'{run}_{clock}'] / cost[f'plain_{clock}'] - 1:+.1%}"  # noqa: E731
    return {"share": more("seconds"), "processor": more("cpu_seconds")}


def estimate_row(row: dict[str, Any]) -> list[Any]:
    from deepseek_cli.profile.parts import ESTIMATED

    return [t(ESTIMATED[row["part"]]), mib(row["estimated_bytes"]), mib(row["measured_bytes"]), f"{row['error']:+.1%}"]


def mib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / (1 << 20), 1)
