"""Where a model can be taken, by the name that `--target` takes. Others come through the entry point group `deepseek.targets`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepseek_cli import plugins
from deepseek_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Target:
    """`path` names the function `deploy(handle, spec, folder, context, threads, reporter) -> dict`."""

    path: str
    help: str


TARGETS = {
    "cpu": Target("deepseek_cli.deploy.cpu:deploy", "ONNX for ONNX Runtime and onnxruntime-genai, on any CPU"),
}
AUTO = "cpu"


def find_target(name: str) -> tuple[str, Callable[..., dict[str, Any]]]:
    """The target's resolved name, and the function that builds its bundle.

    Raises UsageError, which lists the known ones.
    """
    name = AUTO if name == "auto" else name
    target = TARGETS.get(name)
    found = plugins.load(target.path) if target else plugins.find("deepseek.targets", name)
    if found is None:
        raise UsageError(
            "There is no target named {name!r}.",
            hint="Targets are: {known}.",
            name=name,
            known=", ".join(["auto", *TARGETS]),
        )
    return name, found
