"""--memory-profile on a command: its own run as a page, a phase for each of its steps. (`profile` starts a process instead.)"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import store_of
from deepseek_cli.errors import DeepseekError
from deepseek_cli.output import Line, Result
from deepseek_cli.sources import locate

SETTLED = 1.0  # seconds after which a step may come again
STARTS_PROCESSES = ("bench",)  # whose work is done in others


def recorded(run: Callable[[Call], Result], call: Call) -> Result:
    """Run the command and write its page, also where it fails. Raises before the work where the page cannot be written."""
    page = page_of(call)
    if call.common.dry_run:
        from deepseek_cli.profile.report import check_writable

        check_writable(page, call.common.force)
        return with_page(run(call), page, "{path} would be written.")
    from deepseek_cli.profile import DeepSeekProfiler

    profile = DeepSeekProfiler(
        call.command,
        page,
        command=shlex.join(["deepseek", *sys.argv[1:]]),
        force=call.common.force,
        family=call.command in STARTS_PROCESSES,
    )

    seen: set[str] = set()

    def heard(step: str, session: object) -> None:
        profile.session = session or profile.session
        if step not in seen or time.monotonic() - profile.since > SETTLED:  # two steps may report in turn
            seen.add(step)
            profile.begin(step)

    call.reporter.heard = heard
    try:
        with profile:
            result = run(call)
    except BaseException:
        call.reporter.note("{path} holds what was measured until then.", path=page)
        raise
    return with_page(result, page, "{path} is written.")


def with_page(result: Result, page: Path, sentence: str) -> Result:
    return replace(result, data={**result.data, "memory_profile": page}, lines=[*result.lines, Line(sentence, path=page)])


def page_of(call: Call) -> Path:
    """<name>-memory.html, by the name of the model where it is here already, else of the command."""
    models = [*call.arguments.get("models", ()), call.arguments.get("model"), call.settings.model]
    for ref in filter(None, models):
        try:
            return Path(f"{locate(str(ref), store_of(call)).name}-memory.html")
        except DeepseekError:  # the command itself will say so, where it matters
            continue
    return Path(f"{call.command}-memory.html")
