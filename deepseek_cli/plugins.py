"""Architectures, algorithms, targets and compression steps that other installed packages add through entry points.

Nothing here runs until a name is missing from our own registries: a broken package must not slow down
or break what does not need it.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepseek_cli.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUPS = ("deepseek.architectures", "deepseek.algorithms", "deepseek.targets", "deepseek.steps")


@dataclass(frozen=True, slots=True)
class Plugin:
    group: str
    name: str
    distribution: str  # "name version"
    entry: EntryPoint

    @property
    def kind(self) -> str:
        return self.group.partition(".")[2]


def load(path: str) -> Any:
    """The object that a registry's "module:name" stands for."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def installed() -> list[Plugin]:
    """Every plug-in on this machine, none of them imported. DEEPSEEK_NO_PLUGINS=1 hides them all."""
    if os.environ.get("DEEPSEEK_NO_PLUGINS", "0") not in ("", "0"):
        return []
    from importlib.metadata import entry_points

    found = [(group, entry) for group in GROUPS for entry in sorted(entry_points(group=group))]
    return [Plugin(group, e.name, f"{e.dist.name} {e.dist.version}" if e.dist else "?", e) for group, e in found]


def find(group: str, name: str, reporter: Reporter = SILENT) -> Any | None:
    """What a plug-in offers under this name, or None. One that cannot be loaded is a warning, not an error."""
    for plugin in installed():
        if (plugin.group, plugin.name) == (group, name):
            try:
                return plugin.entry.load()
            except Exception as error:  # it is someone else's code: anything can happen
                reporter.warn(
                    "The plug-in {name} of {distribution} cannot be loaded: {reason}.",
                    name=name,
                    distribution=plugin.distribution,
                    reason=f"{type(error).__name__}: {error}",
                )
    return None
