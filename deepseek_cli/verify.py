"""Whether a folder still holds the bytes that its manifest lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.manifest import Manifest, sha256
from deepseek_cli.reporter import SILENT, Reporter


@dataclass(frozen=True, slots=True)
class FileState:
    path: str
    bytes: int
    state: str  # "ok", "missing", "size differs", "content differs"


def check_files(root: Path, manifest: Manifest, reporter: Reporter = SILENT) -> list[FileState]:
    """Every listed file, hashed again. `root` is the model's folder, or its one file."""
    base = root if root.is_dir() else root.parent
    total, done, states = sum(f["bytes"] for f in manifest.files), 0, []
    for file in manifest.files:
        path = base / str(file["path"])
        if not path.resolve().is_relative_to(base.resolve()) and not path.is_symlink():
            state = "outside the folder"
        elif not path.is_file():
            state = "missing"
        elif path.stat().st_size != file["bytes"]:
            state = "size differs"
        else:
            state = "ok" if sha256(path) == file["sha256"] else "content differs"
        states.append(FileState(str(file["path"]), int(file["bytes"]), state))
        done += file["bytes"]
        reporter.progress("verify", done, total, "B")
    return states
