"""What a target is: how a bundle is written, how it is read back, and what runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import ModelUnsupported, fill
from deepseek_cli.handle import ModelHandle
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime.session import Session
from deepseek_cli.runtime.session import require as require
from deepseek_cli.tensors import Weight


@dataclass(frozen=True, slots=True)
class Target:
    """The functions of one target. All but `runtime` and `open_folder` do without what it runs in, where that is an extra."""

    name: str
    # Writes all files of a bundle but its manifest, for up to so many tokens of context, on so many threads (None: all). Gives
    # {"readers": who can load it, "dense_fallbacks": names of weights that it does not hold as codes}.
    emit: Callable[[ModelHandle, DeploySpec, Path, int, int | None, Reporter], dict[str, Any]]
    # What a bundle lacks, or has too much of (L0).
    unexpected: Callable[[ModelHandle, Path, int | None], list[str]]
    # Its weights by on-disk name, rows in the operators' order, as its files hold them (L1). Dense ones may be narrow: then
    # the model's values are rounded before they are compared.
    read_back: Callable[[ModelHandle, Path], Iterator[tuple[str, Weight]]]
    # (folder, config, context, threads, exact): a session in the target's own runtime (L2, L3), where `exact` without
    # rounding activations.
    open_folder: Callable[[Path, Any, int, int | None, bool], Session]
    # Name and version of that runtime. Raises MissingExtra.
    runtime: Callable[[], str]
    left_out: Callable[[ModelHandle], set[str]] = lambda _: set()  # weights that no bundle of this target holds
    # The model that L2 and L3 compare with, where read_back's roundings are allowed for: what the bundle holds.
    reference: Callable[[ModelHandle, Path], ModelHandle] = lambda handle, _: handle
    precisions: tuple[str, ...] = ()  # what its bundles can hold dense weights in, where there is a choice
    longest_context: int = 32768  # positions that get rotary tables or a cache, unless --context says more
    unrun: tuple[str, ...] = ()  # runtimes that bundles are for, where another one stands in for them
    slowness: float = 1.0  # of a token in its runtime here, over one in PyTorch: how far to verify depends on it
    # What `emit` writes beside, by the subfolder that a bundle may hold it in: each is verified as a bundle of its own is.
    parts: Mapping[str, Target] = field(default_factory=dict)

    def held(self, folder: Path) -> list[tuple[str, Path, Target]]:
        """What the bundle at `folder` consists of: a name, "" for the bundle itself, where it lies, and what it is."""
        beside = [(name, folder / name, part) for name, part in self.parts.items()]
        return [("", folder, self), *(entry for entry in beside if entry[1].is_dir())]


def refusal(attempt: Callable[[], object]) -> str:
    """Why what `attempt` plans cannot be made of a model; "" where it can."""
    try:
        attempt()
    except ModelUnsupported as error:
        return fill(error.message, error.facts)
    return ""
