"""Where a model can be taken, by the name that `--target` takes. Others come through the entry point group `deepseek.targets`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepseek_cli import plugins
from deepseek_cli.errors import UsageError

if TYPE_CHECKING:
    from deepseek_cli.deploy.target import Target


@dataclass(frozen=True, slots=True)
class Listed:
    """`path` names a `deploy.target.Target`; `carries` are the schemes whose codes it holds bit for bit."""

    path: str
    help: str
    carries: str


TARGETS = {
    "cpu": Listed(
        "deepseek_cli.deploy.cpu:TARGET",
        "ONNX for ONNX Runtime and onnxruntime-genai, on any CPU",
        "int4, int8, with or without zero points",
    ),
    "vllm": Listed("deepseek_cli.deploy.vllm:TARGET", "a compressed-tensors folder for vLLM and transformers", "int4, int8"),
}
AUTO = "cpu"


def find_target(name: str) -> Target:
    """Raises UsageError, which lists the known ones."""
    name = AUTO if name == "auto" else name
    listed = TARGETS.get(name)
    found: Target | None = plugins.load(listed.path) if listed else plugins.find("deepseek.targets", name)
    if found is None:
        raise UsageError(
            "There is no target named {name!r}.",
            hint="Targets are: {known}.",
            name=name,
            known=", ".join(["auto", *TARGETS]),
        )
    return found
