"""`deepseek doctor`: is everything here that the tool needs? Ends with a block to paste into a bug report."""

from __future__ import annotations

from dataclasses import asdict

from deepseek_cli.commands._call import Call, NoOptions
from deepseek_cli.doctor import examine
from deepseek_cli.output import Line, Result, Table

ARGUMENTS = ()
EXAMPLES = ["deepseek doctor", "deepseek doctor --json"]
SPEC = NoOptions


def run(call: Call) -> Result:
    checks = examine(call.settings)
    broken = [check for check in checks if check.problem]
    lines: list[str | Line | Table] = [
        Line("{count} problems were found.", count=len(broken)) if broken else Line("All is well."),
        *(f"  {check.name}: {check.problem}. {check.remedy}" for check in broken),
        "",
        Line("For a bug report:"),
        *(f"    {check.name}: {check.value}{f' ({check.problem})' if check.problem else ''}" for check in checks),
    ]
    quiet = "\n".join(check.name for check in broken)
    return Result(
        {"checks": [{**asdict(check), "ok": not check.problem} for check in checks]}, lines, quiet, exit_code=int(bool(broken))
    )
