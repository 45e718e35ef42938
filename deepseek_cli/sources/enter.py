"""The end of every pull: what lies on this machine is opened, listed with its digests, and named in the store."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.manifest import FILE, Manifest, list_files, read_manifest, sha256, write_manifest
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.sources import Located
from deepseek_cli.sources.fetch import Records
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store, copy_file, require_space, staged


@dataclass(frozen=True, slots=True)
class Pulled:
    """`plan` is what would be fetched (bytes per file) under `dry_run`; else `handle` is the model."""

    name: str
    path: Path
    handle: ModelHandle | None
    plan: dict[str, int]
    unchanged: bool = False
    missing: int | None = None  # bytes that a hub would have to send
    free: int | None = None  # on the disk they would go to


@dataclass(frozen=True, slots=True)
class Errand:
    """What `pull` was asked. `before` is shown a hub's model, its name and its config.json, before the weights are fetched."""

    ref: str
    spec: PullSpec
    store: Store
    output: Path | None = None
    offline: bool = False
    dry_run: bool = False
    force: bool = False
    reporter: Reporter = SILENT
    before: Callable[[str, Mapping[str, Any]], None] = lambda name, config: None


def enter(errand: Errand, located: Located, checked: Records = ()) -> Pulled:
    """`checked` are the files whose digests are known already."""
    store, output, force = errand.store, errand.output, errand.force
    handle = open_model(str(located.path), store)  # refuses what is damaged before anything is written
    if output and located.path.is_dir() and output.resolve().is_relative_to(located.path.resolve()):
        raise UsageError("The output {path} lies inside the model's own folder.", hint="Choose another -o.", path=output)
    final = output or store.models / located.name
    known = read_manifest(final) if final.is_dir() else None
    pulled = known is not None and (output or known.root) and known.source.get("ref") == located.source.get("ref")
    same = known and pulled and known.source == located.source and not checked
    if known and same and is_complete(known, final if output else located.path) and not force:
        return Pulled(known.name, final, handle, {}, unchanged=True)
    manifest = located.manifest or Manifest(located.name, source=located.source)
    manifest = dataclasses.replace(manifest, root=None if output else str(located.path))
    names = [Path(f["path"]) for f in checked] or [Path(f.name) for f in files_of(located.path)]
    if output:
        require_space(output, 0 if checked else sum(f.stat().st_size for f in files_of(located.path)))
    with staged(final, force or bool(pulled and not output)) as folder:
        if output:
            copy_files(located.path, folder, names)
        base = folder if output else located.path
        files = checked or (_hashed(base, errand.reporter) if base.is_dir() else _one(base))
        write_manifest(folder, dataclasses.replace(manifest, files=files))
    return Pulled(located.name, final, open_model(str(final), store) if checked and output else handle, {})


def files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(f for f in path.iterdir() if f.is_file() and f.suffix != ".py")


def is_complete(manifest: Manifest, root: Path) -> bool:
    """Whether the files that were pulled are still there, each with its size."""
    files = [((root if root.is_dir() else root.parent) / f["path"], f["bytes"]) for f in manifest.files]
    return all(path.is_file() and path.stat().st_size == size for path, size in files)


def copy_files(source: Path, folder: Path, names: list[Path]) -> None:
    if source.is_file():
        raise UsageError(
            "-o wants a model folder, and {file} is one file.", hint="Leave -o out, or quantize it into a folder.", file=source
        )
    for name in names:
        file, target = source / name, folder / name
        if name == Path(FILE):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_symlink():
            shutil.copyfile(file.resolve(), target)
        else:
            copy_file(file, target)


def _hashed(base: Path, reporter: Reporter) -> Records:
    size = sum(f.stat().st_size for f in files_of(base))
    return list_files(base, lambda done: reporter.progress("sha256", done, size, "B"))


def _one(path: Path) -> Records:
    return ({"path": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)},)
