"""Commands in a process of their own, as a shell would start them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from deepseek_cli.commands import COMMANDS, load

ROOT = Path(__file__).parents[2]


def _present(name: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        load(name)
        return True
    return False


PRESENT = [name for name in COMMANDS if _present(name)]


def start(*words: str, code: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    """`deepseek WORDS`, or Python running `code` with them. Output is text, stdin is empty."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}  # type: ignore[dict-item]
    what = ["-c", code] if code else ["-m", "deepseek_cli"]
    defaults = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": 120, "env": environ}
    return subprocess.run([sys.executable, *what, *words], **{**defaults, **options})  # type: ignore[call-overload]
