"""The machine and the versions that a report was made with. No environment variables, no paths."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from deepseek_cli import __version__

PACKAGES = ("torch", "onnxruntime", "numpy")


def machine() -> dict[str, Any]:
    import psutil

    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "limit_bytes": cgroup_limit(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {
            "deepseek-cli": __version__,
            "python": platform.python_version(),
            **{p: v for p in PACKAGES if (v := version(p))},
        },
    }


def processor() -> str:
    """The processor's name as the system writes it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cgroup_limit() -> int | None:
    """The memory this process's control group allows, where it has a limit; bytes."""
    if sys.platform != "linux":
        return None
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 1 << 60 else None
    return None


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
