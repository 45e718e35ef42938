"""Benchmarks run by hand: whatever the package renames would otherwise be noticed when somebody measures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_every_script_finds_what_it_imports(tmp_path: Path) -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert names
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join((str(FOLDER), str(FOLDER.parent)))}
    subprocess.run([sys.executable, "-c", code, *names], env=env, check=True)
