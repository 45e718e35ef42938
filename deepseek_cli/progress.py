"""Progress on stderr: a bar on a terminal, elsewhere a line where a step starts and ends, and one every 30 s between."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from deepseek_cli.i18n import t
from deepseek_cli.spec import format_size

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

HEARTBEAT_S = 30


@dataclass(slots=True)
class Step:
    started: float
    said: float
    task: TaskID | None = None


@dataclass(slots=True)
class Progress:
    """`say` writes one line to stderr; `terminal` is stderr when it is one."""

    say: Callable[[str], None]
    terminal: TextIO | None
    steps: dict[str, Step] = field(default_factory=dict)
    bars: RichProgress | None = None

    def update(self, name: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        step = self.steps.get(name)
        if step is None:
            step = self.steps[name] = Step(now, now)
            if done < total and not self.terminal:
                self.say(t("{step}: {total} to do").format(step=t(name), total=_amount(total, unit)))
        if done >= total:
            self._end(name, done, unit, now)
        elif self.terminal:
            self._draw(name, step, done, total, unit)
        elif now - step.said >= HEARTBEAT_S:
            step.said = now
            facts = {"step": t(name), "done": _amount(done, unit), "total": _amount(total, unit), "percent": 100 * done // total}
            self.say(t("{step}: {done} of {total}, {percent} %").format(**facts))

    def close(self) -> None:
        """Take the bars off the screen, so that other things can be written."""
        if self.bars:
            self.bars.stop()
        self.bars, self.steps = None, {}

    def _end(self, name: str, done: int, unit: str, now: float) -> None:
        step = self.steps.pop(name)
        if self.bars and not self.steps:
            self.close()
        elif self.bars and step.task is not None:
            self.bars.remove_task(step.task)
        self.say(
            t("{step}: {done} in {seconds} s").format(step=t(name), done=_amount(done, unit), seconds=f"{now - step.started:.1f}")
        )

    def _draw(self, name: str, step: Step, done: int, total: int, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        if not self.bars:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[amount]}"),
                TimeRemainingColumn(),
            )
            self.bars = Progress(*columns, console=Console(file=self.terminal), transient=True, redirect_stdout=False)
            self.bars.start()
        amount = f"{_amount(done, unit)} / {_amount(total, unit)}"
        if step.task is None:
            step.task = self.bars.add_task(t(name), total=total, amount=amount)
        self.bars.update(step.task, completed=done, amount=amount)


def _amount(count: int, unit: str) -> str:
    return format_size(count) if unit == "B" else f"{count} {unit}".rstrip()
