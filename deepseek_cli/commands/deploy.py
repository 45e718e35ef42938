"""deepseek deploy"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._optimize import plan_deploy
from deepseek_cli.commands._subject import reference, shown, store_of
from deepseek_cli.deploy.auto import concrete
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import ModelNotFound
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.sources import canonical
from deepseek_cli.sources.catalogue import by_alias
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.spec import fields_of
from deepseek_cli.store import result_name

if TYPE_CHECKING:
    from deepseek_cli.deploy.engine import Deployed

ARGUMENTS = ("model?",)
COMMON = ("dry_run", "strict", "threads", "context", "memory", "memory_profile", "optimize_memory")
SPEC = DeploySpec
EXAMPLES = [
    "deepseek deploy smollm2@int4-g32-balanced --target cpu",
    "deepseek deploy ./my-model --target cpu --verify weights -o bundle",
    "deepseek deploy hf:HuggingFaceTB/SmolLM2-135M-Instruct --int4 --pull",
    "deepseek deploy --list",
]


def run(call: Call) -> Result:
    from deepseek_cli.deploy import TARGETS

    if call.spec.list:
        rows = [[name, target.help, target.carries, target.verifier] for name, target in TARGETS.items()]
        keys = ("name", "help", "carries", "verified_by")
        return Result(
            {"targets": [dict(zip(keys, row, strict=True)) for row in rows]},
            [Table(["target", "emits", "carries bit for bit", "verified here by"], rows)],
            quiet="\n".join(TARGETS),
        )
    done = made(call, call.spec)
    data = {
        "name": done.name,
        "path": done.path,
        "target": done.target,
        "context": done.context,
        "unchanged": done.unchanged,
        "verification": done.verification,
        **({"memory_plan": done.memory_plan} if done.memory_plan else {}),
        "bytes": sum(f["bytes"] for f in done.manifest.files) if done.manifest else None,
    }
    quiet = shown(call, done.name, done.path)
    failed = bool(done.verification.get("failed"))
    return Result(data, _lines(done), quiet=quiet, exit_code=1 if failed else 0, next=f'deepseek run {quiet} "Hello"')


def made(call: Call, spec: DeploySpec) -> Deployed:
    """The bundle, its model fetched and quantized before where that was asked for."""
    from deepseek_cli.deploy import find_target

    ref = _reference(call, spec)  # a name that is wrong fails before the target's packages are loaded
    spec = concrete(spec, call.reporter)
    target = find_target(spec.target).name
    steps = [f"pull {ref}"] * spec.pull + [f"quantize --{spec.scheme}"] * bool(spec.scheme)
    if steps:
        call.reporter.note("The plan: {steps}.", steps=" → ".join([*steps, f"deploy --target {target}"]))
    from deepseek_cli.deploy.engine import Deployed, deploy
    from deepseek_cli.deploy.prepare import prepare

    common, store, reporter = call.common, store_of(call), call.reporter
    model = prepare(
        ref,
        spec,
        store,
        offline=common.offline,
        dry_run=common.dry_run,
        agreed=common.yes,
        fetching=_fetching(call),
        reporter=reporter,
    )
    if model.handle is None:
        name = result_name(model.name, target=target)
        return Deployed(name, common.output or store.models / name, target, common.context)
    optimized = plan_deploy(call, model.handle, target, spec.kv)
    if optimized and optimized.kv == "fp16":
        spec = replace(spec, kv="fp16")
    return deploy(
        model.handle,
        spec,
        store,
        common.output,
        context=common.context,
        threads=common.threads,
        force=common.force,
        dry_run=common.dry_run,
        plan=optimized.plan if optimized else None,
        reporter=reporter,
    )


def _fetching(call: Call) -> PullSpec:
    """As the settings say of `pull`: a mirror serves here, too."""
    said = call.settings.resolve("pull", fields_of(PullSpec), {})
    return PullSpec(**{name: value.value for name, value in said.items()})


def _reference(call: Call, spec: DeploySpec) -> str:
    try:
        return reference(call, "source" if spec.scheme else "model")
    except ModelNotFound:
        if not spec.pull:
            raise
        ref = str(call.model)
        return ref if by_alias(ref) else canonical(ref)  # an alias is pulled at its commit


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
