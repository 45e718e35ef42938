"""A bench document as rows for people, and as files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deepseek_cli.bench.chart import chart
from deepseek_cli.bench.junit import junit
from deepseek_cli.bench.metrics import METRICS, MORE_IS_BETTER, base, place, unit
from deepseek_cli.errors import UsageError
from deepseek_cli.profile.report import cannot_write, write

ORDER = {name: index for index, name in enumerate(METRICS)}
SHOWN = (
    *("load", "start", "start_cold", "first_token", "prefill", "decode", "gap_p95", "peak", "rss", "kv", "touched"),
    *("kl", "agreement", "perplexity"),
    *("tokens", "answers", "goodput", "ttft_p50", "ttft_p95", "itl_p50", "itl_p99", "e2e_p50", "e2e_p95", "failed", "processor"),
)
STATISTICS = ("median", "mad", "min", "max")


def table(document: Mapping[str, Any], *, every: bool = False) -> tuple[list[str], list[list[Any]]]:
    """Headers and rows: a row a metric, a column an arm (median ± MAD, share of the limit), then each arm's ratio to the first,
    with its interval, and the noise of such a ratio. What is rarely asked for is left out, unless `every` metric is wanted."""
    arms = document["arms"]
    headers = ["metric", "unit", *(arm["name"] for arm in arms)]
    headers += ["ratio"] if len(arms) == 2 else [f"{arm['name']} / {arms[0]['name']}" for arm in arms[1:]]
    headers += ["noise"] if len(arms) > 1 else []
    rows = []
    for name in metric_names(document, every=every):
        cells: list[Any] = [name, unit(name), *(spread(arm["metrics"].get(name), arm["limits"].get(name)) for arm in arms)]
        cells += [factor(arm["ratios"].get(name)) for arm in arms[1:]]
        noise = document["noise"].get(name)
        cells += [None if noise is None else f"± {noise:.1%}"] if len(arms) > 1 else []
        rows.append(cells)
    return headers, rows


def metric_names(document: Mapping[str, Any], *, every: bool = False) -> list[str]:
    """What tables show, in order; a metric taken at several places has a row for each."""
    names = {name: None for arm in document["arms"] for name in arm["metrics"]}
    shown = [name for name in names if every or base(name) in SHOWN]
    return sorted(shown, key=lambda name: (ORDER[base(name)], place(name)))


def spread(metric: Mapping[str, Any] | None, limit: Mapping[str, Any] | None = None) -> str | None:
    if metric is None:
        return None
    text = digits(metric["median"])
    text += f" ± {digits(metric['mad'])}" if len(metric["samples"]) > 1 else ""
    return f"{text} ({limit['share']:.0%})" if limit else text


def factor(ratio: Mapping[str, Any] | None) -> str | None:
    if ratio is None:
        return None
    bounds = ratio["interval"]
    return f"{ratio['median']:.2f}×" + (f" ({bounds[0]:.2f} – {bounds[1]:.2f})" if bounds else "")


def digits(value: float) -> str:
    """Three figures are what these measurements carry."""
    decimals = next((i for i, least in enumerate((100, 10, 1)) if value >= least), 3)
    return f"{value:,.{decimals}f}"


def machine_line(document: Mapping[str, Any]) -> str:
    found = document["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    facts = [f"{found['processor']} ({' '.join(found['flags'] or ())})", f"{found['cores']} cores", f"{found['threads']} threads"]
    facts += [f"governor {found['governor']}"] if found["governor"] else []
    facts += ["load " + " → ".join(f"{load[0]:.1f}" for load in (found["load_before"], found["load_after"]) if load)]
    return f"{', '.join(facts)}, {found['system']}; {versions}"


def roof_line(document: Mapping[str, Any]) -> str:
    """What the machine was seen to do at most."""
    roof = document["roofline"]
    read = f"{roof['bytes_per_second'] / 1e9:.1f} GB/s read" if roof["bytes_per_second"] else "bandwidth unknown"
    peaks = (f"{kind} {peak['operations_per_second'] / 1e9:,.0f} Gop/s ({peak['by']})" for kind, peak in roof["matrix"].items())
    return ", ".join([read, *peaks])


def reasons(document: Mapping[str, Any], *, every: bool = False) -> Iterator[tuple[str, str, str]]:
    """Arm, metrics and why they are missing."""
    for arm in document["arms"]:
        by_reason: dict[str, list[str]] = {}
        for name, reason in arm["missing"].items():
            if every or base(name) in SHOWN:
                by_reason.setdefault(reason, []).append(name)
        yield from ((arm["name"], ", ".join(names), reason) for reason, names in by_reason.items())


def gate_line(check: Any) -> str:
    bounds = check.interval
    within = f" ({bounds[0]:+.1%} to {bounds[1]:+.1%})" if bounds else ""
    against = check.reference if check.reference != check.arm else "the baseline"
    text = f"{check.arm}, {check.metric}: {check.slowdown:+.1%}{within} time per token against {against}"
    said = f": {check.verdict}" + (f", {check.reason}" if check.reason else "") if check.verdict else ""
    return text + said


def markdown(document: Mapping[str, Any]) -> str:
    settings = document["settings"]
    headers, rows = table(document, every=True)
    prompts, news = (", ".join(map(str, settings[key])) for key in ("prompt_tokens", "new_tokens"))
    lines = [
        f"{settings['rounds']} interleaved rounds, {prompts} prompt tokens, {news} new tokens, seed {settings['seed']}; "
        "median ± median absolute deviation (share of the limit); ratios are medians of per-round ratios (95 % interval).",
        "",
        row(headers),
        row(["---", "---", *("---:" for _ in headers[2:])]),
        *(row(cells) for cells in rows),
        "",
        machine_line(document),
        *([f"\nLimits: {roof_line(document)}"] if document["roofline"] else []),
    ]
    lines += [f"\n{arm}: {names} not measured: {reason}." for arm, names, reason in reasons(document, every=True)]
    lines += [f"\n{gate_line(check)}" for check in document["gates"]]
    lines += [f"\n{arm['name']} failed: {arm['error']['message']}" for arm in document["arms"] if arm["error"]]
    return "\n".join(lines) + "\n"


def row(cells: list[Any]) -> str:
    return "| " + " | ".join("-" if cell is None else " ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"


def csv_text(document: Mapping[str, Any]) -> str:
    """A line per arm and metric; samples are separated by spaces."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "arm",
            "metric",
            "unit",
            "more_is_better",
            *STATISTICS,
            "limit",
            "limit_share",
            "ratio",
            "ratio_low",
            "ratio_high",
            "samples",
        ]
    )
    for arm in document["arms"]:
        for name, metric in arm["metrics"].items():
            limit, ratio = arm["limits"].get(name, {}), arm["ratios"].get(name) or {}
            figures = [*(metric[s] for s in STATISTICS), limit.get("limit", ""), limit.get("share", ""), ratio.get("median", "")]
            figures += ratio.get("interval") or ["", ""]
            better = base(name) in MORE_IS_BETTER
            writer.writerow([arm["name"], name, unit(name), better, *figures, " ".join(map(str, metric["samples"]))])
    return out.getvalue()


def check_writable(file: Path, force: bool) -> None:
    """Raise before the measuring what would be raised after it: UsageError, ResourceError."""
    if file.exists() and not force:
        raise UsageError("{path} exists.", hint="Use --force to replace it, or name another file.", path=file)
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}."):
            pass
    except OSError as error:
        raise cannot_write(file, error) from None


def json_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, default=dataclasses.asdict) + "\n"


RENDER: dict[str, Callable[[Mapping[str, Any]], str]] = {
    ".md": markdown,
    ".csv": csv_text,
    ".json": json_text,
    ".svg": chart,
    ".xml": junit,
}


def save(document: Mapping[str, Any], file: Path) -> None:
    """Write what the file's ending says, whole or not at all. Raises ResourceError."""
    write(file, RENDER[file.suffix](document))
