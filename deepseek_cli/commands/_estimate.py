"""How `deepseek profile --estimate` shows what it counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek_cli.commands._call import Call
from deepseek_cli.i18n import say, t
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.profile.estimate import estimate
from deepseek_cli.profile.gates import Gate, gates
from deepseek_cli.profile.parts import ESTIMATED
from deepseek_cli.profile.runtimes import RUNTIMES
from deepseek_cli.profile.sketch import Sketch, open_sketch
from deepseek_cli.store import Store

KIB = 1024


def run_estimate(call: Call, ref: str, store: Store, command: str) -> Result:
    from deepseek_cli.profile.report import check_writable

    spec = call.spec
    if spec.html:
        check_writable(spec.html, call.common.force)
    sketch = open_sketch(ref, store, offline=call.common.offline, shapes_only=spec.scheme is not None)
    found = estimate(sketch, call.common.context, spec.batch, spec.kv, spec.scheme, spec.bandwidth)
    checked = gates({"peak": {"bytes": found["total_bytes"]}}, spec, None)
    lines: list[str | Line | Table] = [_parts(found), "", *_totals(found, checked), "", _devices(found)]
    if spec.html:
        _write_page(spec.html, found, sketch, spec.scheme, command)
        lines += ["", Line("{path} is written.", path=spec.html)]
    code = int(not all(gate.passed for gate in checked))
    quiet = str(spec.html or found["total_bytes"])
    return Result({**found, "gates": checked, "page": spec.html}, lines, quiet=quiet, exit_code=code)


def _write_page(path: Path, found: dict[str, Any], sketch: Sketch, scheme: str | None, command: str) -> None:
    from deepseek_cli.profile.report import render_html, write
    from deepseek_cli.profile.whatif import as_document

    write(path, render_html(as_document(found, sketch, scheme, command)))


def _parts(found: dict[str, Any]) -> Table:
    kv, sizes = found["kv"], {part["part"]: part["bytes"] for part in found["parts"]}
    stored = [[t("weights"), form["form"], size(form["bytes"])] for form in found["weights"]]
    if sizes["weights"] != found["weights_bytes"]:
        stored.append([t("weights, loaded"), f"{found['runtime']}: {t(RUNTIMES[found['runtime']].help)}", size(sizes["weights"])])
    cache = say("{count} tokens × {batch}, {kind}", {"count": kv["context"], "batch": kv["batch"], "kind": kv["kind"]})
    rest = [
        [t(ESTIMATED["kv"]), cache, size(sizes["kv"])],
        [t(ESTIMATED["activations"]), "", size(sizes["activations"])],
        [t(ESTIMATED["runtime"]), "", size(sizes["runtime"])],
        [t("peak"), "", size(found["total_bytes"])],
    ]
    return Table(["part", "stored as", "size"], [*stored, *rest])


def _totals(found: dict[str, Any], checked: list[Gate]) -> Iterator[Line]:
    decode = found["decode"]
    yield Line("{name} needs {size}; while it loads, {load}.", **_facts(found))
    if decode["seconds_per_step"]:
        yield Line(
            "Each step reads {read}: at this machine's {rate:.0f} GB/s that takes {ms:.1f} ms.",
            read=size(decode["read_bytes"]),
            rate=decode["bandwidth_bytes_per_second"] / 1e9,
            ms=decode["seconds_per_step"] * 1000,
        )
    for gate in checked:
        word = "{gate}: {peak} is within {limit}." if gate.passed else "{gate}: {peak} is above {limit}."
        yield Line(word, gate=f"--{gate.name}", peak=size(gate.peak_bytes), limit=size(gate.limit_bytes))


def _facts(found: dict[str, Any]) -> dict[str, str]:
    return {"name": found["name"], "size": size(found["total_bytes"]), "load": size(found["load_peak_bytes"])}


def _devices(found: dict[str, Any]) -> Table:
    return Table(
        ["device", "GB/s", "at this context", "longest context", "tokens/s at most", "scheme that fits"],
        [_device(row) for row in found["devices"]],
    )


def _device(row: dict[str, Any]) -> list[Any]:
    rate, speed = row["bandwidth_bytes_per_second"], row["tokens_per_second"]
    name = row["device"] if row["kind"] != "here" else f"{t('this machine')}, {size(row['memory_bytes'])}"
    return [
        name,
        rate and round(rate / 1e9),
        t(row["verdict"]),
        row["largest_context"] or None,
        speed and round(speed, 1),
        row["scheme"] and t(row["scheme"]),
    ]


def size(size_bytes: float) -> str:
    """Bytes in powers of 1024, as allocators count them."""
    value = size_bytes / KIB
    for unit in ("KiB", "MiB"):
        if value < KIB:
            return f"{value:,.1f} {unit}"
        value /= KIB
    return f"{value:,.2f} GiB"
