"""Python distributions that look installed."""

from __future__ import annotations

from pathlib import Path

import pytest


def install(site: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, bytes]) -> Path:
    """A distribution of these files in `site`, which is put on sys.path; gives back the package's folder."""
    package = site / name.replace("-", "_")
    for path, content in {"__init__.py": b"raise SystemExit('the package was run')", **files}.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_bytes(content)
    info = site / f"{package.name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    paths = [f.relative_to(site).as_posix() for f in package.rglob("*") if f.is_file()]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in paths))
    monkeypatch.syspath_prepend(str(site))
    return package
