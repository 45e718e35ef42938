"""What `--target auto` comes to on a machine, and why."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass, replace
from importlib import metadata

from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.reporter import SILENT, Reporter


@dataclass(frozen=True, slots=True)
class Machine:
    """`installed` are distributions that run bundles."""

    system: str  # as platform.system() has it
    processor: str  # as platform.machine() has it
    nvidia: bool
    installed: frozenset[str]


def concrete(spec: DeploySpec, reporter: Reporter = SILENT) -> DeploySpec:
    """`spec` with a target by name."""
    if spec.target != "auto":
        return spec
    target, reason = choose(this_machine())
    reporter.note("Target {target}: {reason}.", target=target, reason=reason)
    return replace(spec, target=target)


def this_machine() -> Machine:
    found = frozenset(name for name in ("mlx-lm", "vllm") if _is_installed(name))
    return Machine(platform.system(), platform.machine(), shutil.which("nvidia-smi") is not None, found)


def choose(machine: Machine) -> tuple[str, str]:
    """The target's name, and the reason: a GPU where an installed runtime uses it, else the processor."""
    if (machine.system, machine.processor) == ("Darwin", "arm64") and "mlx-lm" in machine.installed:
        return "metal", "Apple silicon, and mlx-lm is installed"
    if machine.nvidia and "vllm" in machine.installed:
        return "vllm", "an NVIDIA GPU, and vLLM is installed"
    return "cpu", "no GPU that an installed runtime would use"


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
