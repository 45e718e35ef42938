"""The machine and the versions that figures were taken with: all that somebody needs to judge a difference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from deepseek_cli.profile.machine import machine, version

X86 = ("f16c", "avx2", "avx_vnni", "avx512f", "avx512_bf16", "avx512_vnni", "amx_int8", "amx_bf16")
ARM = ("asimd", "asimddp", "i8mm", "sve")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
PACKAGES = ("onnx-ir", "onnx", "tokenizers", "safetensors")


def environment() -> dict[str, Any]:
    """Processor, its instruction sets that matter here, cores, governor, memory, kernel and versions."""
    found = machine()
    versions = {**found["versions"], **{package: v for package in PACKAGES if (v := version(package))}}
    return {**found, "flags": flags(), "physical_cores": physical_cores(), "governor": governor(), "versions": versions}


def governor() -> str | None:
    """What sets the first core's clock, where the system has such a thing and says so."""
    try:
        return GOVERNOR.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def flags() -> list[str] | None:
    """Those of the processor that matter to matrix products; None where the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    present = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [flag for flag in X86 + ARM if flag in present]


def physical_cores() -> int:
    """Cores to compute on: a second thread on the same core does not help matrix products."""
    import psutil

    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def load_average() -> list[float] | None:
    """Running processes over the last 1, 5 and 15 minutes, where the system counts them."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None
