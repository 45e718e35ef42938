"""Where fetched files lie: in the cache that the Hugging Face libraries share, or in a plain folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.sources.wire import RemoteFile
from deepseek_cli.store import copy_file


@dataclass(frozen=True, slots=True)
class Cache:
    """`root` is the repository's folder in the cache: blobs/<digest>, snapshots/<commit>/<path> → blob, refs/<name>."""

    root: Path
    commit: str
    revision: str

    @classmethod
    def of(cls, hub_id: str, commit: str, revision: str | None) -> Cache:
        from huggingface_hub import constants

        folder = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
        return cls(folder, commit, revision or constants.DEFAULT_REVISION)

    @property
    def folder(self) -> Path:
        return self.root / "snapshots" / self.commit

    @property
    def lock(self) -> Path:
        return self.root.parent / ".locks" / self.root.name / "deepseek.lock"

    def final(self, file: RemoteFile) -> Path:
        return self.root / "blobs" / file.digest

    def publish(self, files: Sequence[RemoteFile]) -> None:
        """Show the model to every reader of the cache; its name comes last, when all files are there."""
        for file in files:
            _link(self.final(file), self.folder / file.path)
        if self.revision != self.commit:
            ref = self.root / "refs" / self.revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            new = ref.with_name(f"{ref.name}.deepseek-{os.getpid()}")
            new.write_text(self.commit)
            new.replace(ref)


@dataclass(frozen=True, slots=True)
class Folder:
    """Files under their own names."""

    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / ".deepseek-lock"

    def final(self, file: RemoteFile) -> Path:
        return self.folder / file.path

    def publish(self, files: Sequence[RemoteFile]) -> None:
        """They stand where they should."""


Place = Cache | Folder


def _link(blob: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.deepseek-{os.getpid()}")
    new.unlink(missing_ok=True)
    try:
        new.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:  # Windows, to users who may not
        copy_file(blob, new)
    new.replace(path)
