"""What this machine has made of a bundle for itself: folders that can always be made again, the least used of which go first."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import DiskFull
from deepseek_cli.manifest import FILE, read_manifest
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.store import making_room, require_space, staged

ENTRY = "entry.json"
ASKED = ".asked"
SCHEMA = "deepseek.packed/1"
PROCESSORS = Path("/proc/cpuinfo")
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni")  # other x86 processors sum products of bytes in 16 bits, which overflow
OTHERS = stat.S_IWGRP | stat.S_IWOTH  # may write
ROOM = 1_000_000_000  # bytes that stay free on the disk


@dataclass(frozen=True, slots=True)
class MachineCache:
    """At most `most` bytes in `folder`; an entry belongs to a bundle, a version of ONNX Runtime and a processor."""

    folder: Path
    most: int
    reporter: Reporter = SILENT

    def entry(self, bundle: Path, form: str, needed: int, make: Callable[[Path], None], at_once: bool = True) -> Path | None:
        """The folder that `make` fills for this `form` of a bundle, once; about `needed` bytes. Unless it is to be made `at_once`
        the first call only remembers that it was asked for, and gives None: what runs once is not worth it.

        Raises DiskFull and ResourceError where it cannot be written, and what `make` does.
        """
        key = key_of(bundle, form)
        path = self.folder / f"{form}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"
        if not _is_sound(path, key):
            asked = path.with_suffix(ASKED)
            if not at_once and not asked.exists():
                with making_room(asked):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    asked.touch()
                return None
            if needed > self.most:
                raise DiskFull(
                    "{path} may take {most} MB, and {needed} MB are needed.",
                    hint="Use --set packed_cache=SIZE, or leave batch_int8 out.",
                    path=self.folder,
                    most=self.most // 1_000_000,
                    needed=needed // 1_000_000,
                )
            self.reporter.note("Packing weights for this machine, once: {path}", path=path)
            self._make_room(needed)
            require_space(self.folder, needed + ROOM)
            with staged(path, force=True) as staging:
                make(staging)
                _seal(staging, key)
            asked.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # of a cache that is only read
            (path / ENTRY).touch()
        return path

    def forget(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)

    def _make_room(self, needed: int) -> None:
        """Remove what was not used for longest, until so many bytes more would not be too many."""
        entries = sorted(self._entries(), key=lambda entry: entry[1])
        total = sum(size for _, _, size in entries)
        for path, _, size in entries:
            if total + needed <= self.most:
                return
            self.forget(path)
            total -= size

    def _entries(self) -> Iterator[tuple[Path, float, int]]:
        """Path, time of last use, and bytes."""
        for file in self.folder.glob(f"*/{ENTRY}"):
            yield file.parent, file.stat().st_mtime, sum(f.stat().st_size for f in file.parent.iterdir())


def key_of(bundle: Path, form: str) -> list[Any]:
    """All that an entry depends on. The bundle's bytes are known by its manifest, and by its files' sizes and times."""
    import onnxruntime

    manifest = read_manifest(bundle)
    files = sorted(file for file in bundle.iterdir() if file.is_file() and file.name != FILE)
    stamps = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.name.startswith("model.onnx")]
    digests = sorted(str(file.get("sha256")) for file in manifest.files) if manifest else []
    return [form, stamps, digests, onnxruntime.__version__, platform.machine(), *processor()]


def processor() -> tuple[str, str]:
    """Its name, and the instructions that it knows, where the system tells."""
    if not PROCESSORS.exists():
        return platform.processor(), ""
    lines = (line.partition(":") for line in PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines())
    facts = {name.strip().lower(): value.strip() for name, _, value in lines}
    return facts.get("model name", ""), facts.get("flags") or facts.get("features", "")


def multiplies_bytes() -> bool:
    """Whether products of bytes are known to be summed in 32 bits."""
    flags = processor()[1].split()
    return platform.machine().lower() in ("arm64", "aarch64") or any(flag in flags for flag in DOT_PRODUCTS)


def _seal(folder: Path, key: list[Any]) -> None:
    """Say what a new entry is, and keep it from others."""
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    (folder / ENTRY).write_text(json.dumps({"schema": SCHEMA, "key": key, "files": files}), encoding="utf-8")
    folder.chmod(0o700)
    for file in folder.iterdir():
        file.chmod(0o600)


def _is_sound(path: Path, key: list[Any]) -> bool:
    """Whether an entry is of this key, whole, and written by nobody but this user."""
    try:
        found = json.loads((path / ENTRY).read_text(encoding="utf-8"))
        sizes = {file.name: file.lstat().st_size for file in path.iterdir() if file.name != ENTRY}
        private = all(_is_private(place) for place in (path, *path.iterdir()))
        return bool(private and found["schema"] == SCHEMA and found["key"] == key and found["files"] == sizes)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_private(place: Path) -> bool:
    """Whether a file or folder is no link, and nobody else could have written it. Windows itself keeps folders of users apart."""
    facts = place.lstat()
    if stat.S_ISLNK(facts.st_mode):
        return False
    return not hasattr(os, "getuid") or (facts.st_uid == os.getuid() and not facts.st_mode & OTHERS)
