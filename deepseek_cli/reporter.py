"""What the engine may say while it works. It never prints: whoever calls it decides where words go."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Messages are English templates with named fields, as in `errors`."""

    def note(self, message: str, **facts: object) -> None:
        """Something worth a line."""

    def warn(self, message: str, **facts: object) -> None:
        """Something differs from what was asked; listed in `--json`, and an error under `--strict`."""

    def progress(self, step: str, done: int, total: int, unit: str = "") -> None:
        """`done` of `total` units of the named step; `unit` is "B" for bytes. `done == total` ends the step."""


class Silent:
    def note(self, message: str, **facts: object) -> None: ...

    def warn(self, message: str, **facts: object) -> None: ...

    def progress(self, step: str, done: int, total: int, unit: str = "") -> None: ...


class WithoutProgress(Silent):
    """For small work inside larger work: its words pass, its steps do not."""

    def __init__(self, reporter: Reporter) -> None:
        self.note, self.warn = reporter.note, reporter.warn  # type: ignore[method-assign]


SILENT: Reporter = Silent()
