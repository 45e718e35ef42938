"""Short texts: what toys are fitted to need not be long."""

from __future__ import annotations

from pathlib import Path

from deepseek_cli.quantize.calibration import BUILTIN


def short_text(folder: Path) -> Path:
    """Some thousand tokens, of single bytes."""
    file = folder / "calibration.txt"
    file.write_text(BUILTIN.read_text(encoding="utf-8")[:3000], encoding="utf-8")
    return file
