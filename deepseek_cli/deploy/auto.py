"""What `--target auto` comes to on a machine, and why."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass, replace
from importlib import metadata

from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.reporter import SILENT, Reporter

TOOLS = {"nvidia": "nvidia-smi", "amd": "rocminfo"}
RUNTIMES = ("mlx-lm", "onnxruntime-gpu", "vllm")


@dataclass(frozen=True, slots=True)
class Machine:
    """`installed` are distributions that run bundles."""

    system: str  # as platform.system() has it
    processor: str  # as platform.machine() has it
    gpus: frozenset[str]  # of nvidia, amd: whose driver's own tool is there
    installed: frozenset[str]


def concrete(spec: DeploySpec, reporter: Reporter = SILENT) -> DeploySpec:
    """`spec` with a target by name."""
    if spec.target != "auto":
        return spec
    target, reason = choose(this_machine())
    reporter.note("Target {target}: {reason}.", target=target, reason=reason)
    return replace(spec, target=target)


def this_machine() -> Machine:
    gpus = frozenset(maker for maker, tool in TOOLS.items() if shutil.which(tool))
    return Machine(platform.system(), platform.machine(), gpus, frozenset(filter(_is_installed, RUNTIMES)))


def choose(machine: Machine) -> tuple[str, str]:
    """The target's name, and the reason: a GPU where an installed runtime uses it, else the processor."""
    if (machine.system, machine.processor) == ("Darwin", "arm64") and "mlx-lm" in machine.installed:
        return "metal", "Apple silicon, and mlx-lm is installed"
    if "nvidia" in machine.gpus and "vllm" in machine.installed:
        return "vllm", "an NVIDIA GPU, and vLLM is installed"
    if "nvidia" in machine.gpus and "onnxruntime-gpu" in machine.installed:
        return "cuda", "an NVIDIA GPU, and onnxruntime-gpu is installed"
    if "amd" in machine.gpus and "vllm" in machine.installed:
        return "rocm", "an AMD GPU, and vLLM is installed"
    return "cpu", "no GPU that an installed runtime would use"


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
