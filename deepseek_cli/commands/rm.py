"""deepseek rm"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import store_of
from deepseek_cli.errors import ModelNotFound
from deepseek_cli.output import Line, Result

ARGUMENTS = ("name",)


@dataclass(frozen=True, slots=True)
class RmSpec:
    pass


SPEC = RmSpec
EXAMPLES = ["deepseek rm smollm2@int4-g32-balanced --yes"]


def run(call: Call) -> Result:
    store, name = store_of(call), call.arguments["name"]
    found = store.find(name) or store.stopped(name)
    if not found:
        raise ModelNotFound("The store holds nothing named {name}.", hint="See: deepseek list", name=name)
    folder, manifest = found
    kept = Line("Its files stay at {root}.", root=manifest.root) if manifest.root else None
    call.reporter.confirm("Delete {name}?", name=manifest.name)
    store.remove(manifest.name)
    return Result(
        {"name": manifest.name, "path": folder, "files_kept_at": manifest.root},
        [Line("{name} is deleted.", name=manifest.name), *([kept] if kept else [])],
        quiet=manifest.name,
    )
