"""deepseek show"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._catalogue import describe, plain, shape
from deepseek_cli.commands._report import report_lines
from deepseek_cli.commands._subject import subject
from deepseek_cli.errors import ModelNotFound
from deepseek_cli.output import Line, Result, Table

ARGUMENTS = ("model?",)


@dataclass(frozen=True, slots=True)
class ShowSpec:
    pass


SPEC = ShowSpec
EXAMPLES = ["deepseek show smollm2", "deepseek show r1-distill-1.5b", "deepseek show ./my-model --json"]


def run(call: Call) -> Result:
    from deepseek_cli.handle import ModelHandle

    try:
        opened = subject(call, "any")
    except ModelNotFound as missing:
        return describe(call, missing)
    manifest = opened.manifest
    facts: dict[str, Any] = {
        "name": opened.name,
        "kind": manifest.kind,
        "path": opened.root,
        "architecture": opened.architecture.name,
        "bytes": opened.size_bytes,
        **shape(opened.config),
    }
    stored = Counter(ref.stored for ref in opened.weights.values()) if isinstance(opened, ModelHandle) else Counter()
    data = {
        **facts,
        "config": plain(dataclasses.asdict(opened.config)),
        "tensors": dict(stored),
        "manifest": dataclasses.asdict(manifest),
    }
    lines: list[str | Line | Table] = [Table(["field", "value"], [[k, str(v)] for k, v in facts.items()])]
    if stored:
        lines.append(Table(["stored as", "tensors"], [[k, n] for k, n in stored.items()]))
    if manifest.steps:
        lines.append(Table(["step", "options"], [[s["command"], _options(s["resolved"])] for s in manifest.steps]))
    lines += report_lines(manifest.report)
    if manifest.verification:
        lines.append(
            Line(
                "Verified to {level} in {runtime}.",
                level=manifest.verification.get("level"),
                runtime=manifest.verification.get("runtime"),
            )
        )
    return Result(data, lines, quiet=str(opened.root))


def _options(resolved: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in resolved.items() if v not in (None, [], ""))
