"""A bench document as rows for people, and as JSON, Markdown and CSV files."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek_cli.bench.metrics import MORE_IS_BETTER, unit
from deepseek_cli.errors import UsageError
from deepseek_cli.profile.report import cannot_write, write

SHOWN = ("load", "first_token", "prefill", "decode", "gap_p95", "peak", "rss", "kv")
STATISTICS = ("median", "mad", "min", "max")


def table(document: Mapping[str, Any], ratios: bool = True) -> tuple[list[str], list[list[Any]]]:
    """Headers and rows: a row a metric, a column an arm (median ± MAD), then each arm's ratio to the first."""
    arms = document["arms"]
    headers = ["metric", "unit", *(arm["name"] for arm in arms)]
    headers += [f"{arm['name']} / {arms[0]['name']}" for arm in arms[1:]] if ratios else []
    rows = []
    for name in metric_names(document):
        cells: list[Any] = [name, unit(name), *(spread(arm["metrics"].get(name)) for arm in arms)]
        cells += [factor(arm["ratios"].get(name)) for arm in arms[1:]] if ratios else []
        rows.append(cells)
    return headers, rows


def metric_names(document: Mapping[str, Any]) -> list[str]:
    """What tables show, in order; a metric taken at several depths has a row for each."""
    names = {name: None for arm in document["arms"] for name in arm["metrics"]}
    order = {base: i for i, base in enumerate(SHOWN)}
    shown = [name for name in names if name.partition("@")[0] in order]
    return sorted(shown, key=lambda name: (order[name.partition("@")[0]], int(name.partition("@")[2] or 0)))


def spread(metric: Mapping[str, Any] | None) -> str | None:
    if metric is None:
        return None
    text = digits(metric["median"])
    return f"{text} ± {digits(metric['mad'])}" if len(metric["samples"]) > 1 else text


def factor(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:.2f}×"


def digits(value: float) -> str:
    """Three figures are what these measurements carry."""
    decimals = next((i for i, least in enumerate((100, 10, 1)) if value >= least), 3)
    return f"{value:,.{decimals}f}"


def machine_line(document: Mapping[str, Any]) -> str:
    found = document["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    flags = " ".join(found["flags"] or ())
    return f"{found['processor']} ({flags}), {found['cores']} cores, {found['threads']} threads, {found['system']}; {versions}"


def markdown(document: Mapping[str, Any]) -> str:
    settings = document["settings"]
    headers, rows = table(document)
    counts = "{rounds} interleaved rounds, {prompt_tokens} prompt tokens, {new_tokens} new tokens, seed {seed}".format(**settings)
    lines = [
        f"{counts}; median ± median absolute deviation; ratios are medians of per-round ratios.",
        "",
        row(headers),
        row(["---", "---", *("---:" for _ in headers[2:])]),
        *(row(cells) for cells in rows),
        "",
        machine_line(document),
    ]
    lines += [f"\n{arm['name']} failed: {arm['error']['message']}" for arm in document["arms"] if arm["error"]]
    return "\n".join(lines) + "\n"


def row(cells: list[Any]) -> str:
    return "| " + " | ".join("-" if cell is None else str(cell).replace("|", "\\|") for cell in cells) + " |"


def csv_text(document: Mapping[str, Any]) -> str:
    """A line per arm and metric; samples are separated by spaces."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "metric", "unit", "more_is_better", *STATISTICS, "ratio", "samples"])
    for arm in document["arms"]:
        for name, metric in arm["metrics"].items():
            better = name.partition("@")[0] in MORE_IS_BETTER
            figures = [*(metric[s] for s in STATISTICS), arm["ratios"].get(name, "")]
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


def save(document: Mapping[str, Any], file: Path) -> None:
    """Write what the file's ending says, whole or not at all. Raises ResourceError."""
    render = {".md": markdown, ".csv": csv_text, ".json": lambda d: json.dumps(d, indent=2, ensure_ascii=False) + "\n"}
    write(file, render[file.suffix](document))
