"""deepseek verify"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import reference, store_of, subject
from deepseek_cli.errors import ModelNotFound, UsageError
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.spec import option

ARGUMENTS = ("model?",)
COMMON = ("threads", "memory")


@dataclass(frozen=True, slots=True)
class VerifySpec:
    quick: bool = option(False, help="only the files' bytes, for a bundle too")
    repair: bool = option(False, help="fetch again what is wrong in a model that was pulled")


SPEC = VerifySpec
EXAMPLES = ["deepseek verify smollm2", "deepseek verify smollm2@int4-g32-balanced+cpu", "deepseek verify smollm2 --repair"]


def run(call: Call) -> Result:
    from deepseek_cli.handle import Bundle
    from deepseek_cli.verify import check_files

    if call.spec.repair:
        _repair(call)
    opened = subject(call, "any")
    if not opened.manifest.files:
        raise ModelNotFound(
            "{name} has no manifest to verify against.",
            hint="Pull it first: deepseek pull {root}",
            name=opened.name,
            root=opened.root,
        )
    states = check_files(opened.root, opened.manifest, call.reporter)
    wrong = [s for s in states if s.state != "ok"]
    data: dict[str, Any] = {
        "name": opened.name,
        "level": None if wrong else "L0",
        "files": [dataclasses.asdict(s) for s in states],
    }
    lines: list[str | Line | Table] = [Table(["file", "state"], [[s.path, s.state] for s in wrong])]
    if not wrong and isinstance(opened, Bundle) and not call.spec.quick:
        data |= _verify_bundle(call, opened)
    good = not wrong and not data.get("failed")
    sentence = (
        "{name}: all {count} files are as they were written; verified to {level}."
        if good
        else "{name}: {bad} of {count} files are not as they were written."
        if wrong
        else "{name}: the files are as they were written, but what they compute is not: verified to {level} only."
    )
    lines.append(Line(sentence, name=opened.name, count=len(states), bad=len(wrong), level=data["level"]))
    return Result(data, lines, quiet=str(data["level"]), exit_code=0 if good else 1)


def _repair(call: Call) -> None:
    """Before the model is opened, since one that is cut short cannot be."""
    from deepseek_cli.sources import locate
    from deepseek_cli.sources.fetch import repair
    from deepseek_cli.verify import check_files

    if call.common.offline:
        raise UsageError("--repair fetches, and --offline forbids it.", hint="Leave one of them out.")
    located = locate(reference(call, "any"), store_of(call))
    manifest = located.manifest
    wrong = [s.path for s in check_files(located.path, manifest, call.reporter) if s.state != "ok"] if manifest else []
    if manifest and wrong:
        repair(manifest, located.path, wrong, call.reporter)


def _verify_bundle(call: Call, bundle: Any) -> dict[str, Any]:
    """The bundle's recorded verification, repeated against the model it was made from."""
    from deepseek_cli.deploy.engine import verify_again
    from deepseek_cli.handle import open_model

    parent = bundle.manifest.source.get("parent_path")
    return verify_again(bundle, open_model(str(parent), store_of(call)), call.common.threads, call.reporter)
