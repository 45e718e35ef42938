"""deepseek deploy"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import reference, shown, store_of
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.output import Line, Result, Table

if TYPE_CHECKING:
    from deepseek_cli.deploy.engine import Deployed

ARGUMENTS = ("model?",)
COMMON = ("dry_run", "strict", "threads", "context", "memory")
SPEC = DeploySpec
EXAMPLES = [
    "deepseek deploy smollm2@int4-g32-balanced --target cpu",
    "deepseek deploy ./my-model --target cpu --verify weights -o bundle",
    "deepseek deploy --list",
]


def run(call: Call) -> Result:
    from deepseek_cli.deploy import TARGETS, find_target

    if call.spec.list:
        rows = [[name, target.help, target.carries] for name, target in TARGETS.items()]
        keys = ("name", "help", "carries")
        return Result(
            {"targets": [dict(zip(keys, row, strict=True)) for row in rows]},
            [Table(["target", "emits", "carries bit for bit"], rows)],
            quiet="\n".join(TARGETS),
        )
    ref = reference(call, "model")
    find_target(call.spec.target)
    from deepseek_cli.deploy.engine import deploy
    from deepseek_cli.handle import open_model

    common = call.common
    done = deploy(
        open_model(ref, store_of(call)),
        call.spec,
        store_of(call),
        common.output,
        context=common.context,
        threads=common.threads,
        force=common.force,
        dry_run=common.dry_run,
        reporter=call.reporter,
    )
    data = {
        "name": done.name,
        "path": done.path,
        "target": done.target,
        "context": done.context,
        "unchanged": done.unchanged,
        "verification": done.verification,
        "bytes": sum(f["bytes"] for f in done.manifest.files) if done.manifest else None,
    }
    quiet = shown(call, done.name, done.path)
    failed = bool(done.verification.get("failed"))
    return Result(data, _lines(done), quiet=quiet, exit_code=1 if failed else 0, next=f'deepseek run {quiet} "Hello"')


def _lines(done: Deployed) -> list[str | Line | Table]:
    if done.manifest is None:
        return [Line("{name} would be written to {path}.", name=done.name, path=done.path)]
    size = round(sum(f["bytes"] for f in done.manifest.files) / 1e6)
    sentence = (
        "{name} is up to date: {mb} MB, verified to {level}, at {path}."
        if done.unchanged
        else "{name}: {mb} MB, verified to {level}, at {path}."
    )
    checks = [[c["level"], c["name"], c["result"]] for c in done.verification.get("checks", [])]
    return [
        Table(["level", "check", "result"], checks),
        *_unrun(done.verification),
        Line(sentence, name=done.name, mb=size, level=done.verification.get("level"), path=done.path),
    ]


def _unrun(verification: dict[str, Any]) -> list[Line]:
    """What the bundle is for and did not run it, and what ran it instead."""
    if not (names := ", ".join(verification.get("unrun", []))):
        return []
    if any(check["level"] > "L1" for check in verification["checks"]):
        return [Line("{unrun} itself has not run it: {runtime} stood in.", unrun=names, runtime=verification["runtime"])]
    return [Line("{unrun} itself has not run it.", unrun=names)]
