"""Where results lie: names, shortened names, staging folders, one rename at the end."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.errors import DiskFull, ModelError, ModelNotFound, ResourceError, UsageError
from deepseek_cli.manifest import FILE, Manifest, read_manifest

WORK = ".work"  # ends the name of a folder beside a result that is still being made
RECORD, OWNER = "work.json", "pid"  # in it: what was asked for, and who is or was at work on it
STAGING = re.compile(r"(?P<name>.+)\.(?:staging|old)-(?P<pid>\d+)")


@dataclass(frozen=True, slots=True)
class Store:
    """`home`/models holds a folder per name, each with its manifest."""

    home: Path

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def packed(self) -> Path:
        """What this machine has made for itself, and can make again."""
        return self.home / "packed"

    def entries(self) -> list[tuple[Path, Manifest]]:
        """Every complete entry, oldest first. Where the manifest cannot be read it is of kind "damaged": `rm` can reach it."""
        if not self.models.is_dir():
            return []
        folders = [f for f in self.models.iterdir() if (f / FILE).is_file() and not STAGING.fullmatch(f.name)]
        return [(folder, _manifest(folder)) for folder in sorted(folders, key=lambda f: (f / FILE).stat().st_mtime)]

    def unfinished(self) -> list[Path]:
        """Folders of work that was stopped: the same command goes on with it."""
        return sorted(record.parent for record in self.models.glob(f"*{WORK}/{RECORD}"))

    def find(self, text: str) -> tuple[Path, Manifest] | None:
        """The entry of this name, or of the one name it shortens: `smol@int4+cpu` is `org--SmolLM2@int4-g32-fast+cpu`.

        Raises UsageError when it shortens several, and names them.
        """
        entries = self.entries()
        for matches in (_is_name, _same_parts, _some_parts):
            found = [entry for entry in entries if matches(text.lower(), entry[1].name.lower())]
            if len(found) > 1:
                names = ", ".join(manifest.name for _, manifest in found)
                raise UsageError("{text} could be any of {names}.", hint="Write more of the name.", text=text, names=names)
            if found:
                return found[0]
        return None

    def stopped(self, name: str) -> tuple[Path, Manifest] | None:
        """The unfinished work of this name."""
        folder = next((folder for folder in self.unfinished() if folder.name == name), None)
        return (folder, Manifest(name, "unfinished")) if folder else None

    def newest(
        self, source: str, *, kinds: tuple[str, ...] = ("model", "bundle"), quantized: bool | None = None
    ) -> tuple[Path, Manifest] | None:
        """The newest entry that came from `source`."""
        for folder, manifest in reversed(self.entries()):
            fits = quantized is None or bool(manifest.quantization) == quantized
            if manifest.source.get("ref") == source and manifest.kind in kinds and fits:
                return folder, manifest
        return None

    def remove(self, text: str) -> tuple[Path, Manifest]:
        """Delete one entry of this name; files that lie elsewhere stay.

        Raises ModelNotFound when there is none, UsageError for unfinished work that a process is still at.
        """
        found = self.find(text) or self.stopped(text)
        if not found:
            raise ModelNotFound("The store holds nothing named {name}.", hint="See: deepseek list", name=text)
        require_idle(found[0])
        shutil.rmtree(found[0])
        return found


def _manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder) or Manifest(folder.name)
    except ModelError:
        return Manifest(folder.name, "damaged")


def _is_name(text: str, name: str) -> bool:
    return text in (name, name.split("--", 1)[-1])


def _same_parts(text: str, name: str) -> bool:
    """`text` shortens each part of the name (model, scheme, target) and has no fewer parts."""
    return _some_parts(text, name) and [p == "" for p in _parts(text)] == [p == "" for p in _parts(name)]


def _some_parts(text: str, name: str) -> bool:
    given = _parts(text)
    spellings = (_parts(name), _parts(name.split("--", 1)[-1]))
    return any(all(part.startswith(start) for part, start in zip(parts, given, strict=True)) for parts in spellings)


def _parts(name: str) -> tuple[str, str, str]:
    """Model, scheme and target of `model@scheme+target`."""
    rest, _, target = name.partition("+")
    model, _, scheme = rest.partition("@")
    return model, scheme, target


def result_name(base: str, scheme: str = "", level: str = "", target: str = "") -> str:
    """`<org>--<name>@<scheme>[-<level>][+<target>]`; `base` may carry a scheme already."""
    quantized = f"@{scheme}{f'-{level}' if level else ''}" if scheme else ""
    return f"{base.split('@')[0] if scheme else base}{quantized}{f'+{target}' if target else ''}"


@contextlib.contextmanager
def staged(final: Path, force: bool = False) -> Iterator[Path]:
    """A folder to build in. It becomes `final` when the block ends well, and is removed when it does not.

    Raises UsageError when `final` exists and `force` is off, ResourceError when the place cannot be written.
    """
    require_new(final, force)
    staging = final.with_name(f"{final.name}.staging-{os.getpid()}")
    with making_room(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(final)
        staging.mkdir()
    try:
        with filling(final):
            yield staging
            _swap(staging, final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def passing(beside: Path) -> Iterator[Path]:
    """A folder beside `beside` that goes with the block; one that a killed process left goes now.

    Raises ResourceError when the place cannot be written, DiskFull when it fills up.
    """
    place = beside.with_name(f"{beside.name}.passing")
    folder = place.with_name(f"{place.name}.staging-{os.getpid()}")
    with making_room(place):
        _remove_abandoned(place)
        folder.mkdir()
    try:
        with filling(place):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def making_room(path: Path) -> Iterator[None]:
    """Raises ResourceError where folders for `path` cannot be made."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            "{path} cannot be written: {reason}.", hint="Use another -o.", path=path, reason=error.strerror
        ) from None


@contextlib.contextmanager
def filling(path: Path) -> Iterator[None]:
    """Raises DiskFull where what is written for `path` finds no more room."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFull("The disk of {path} is full.", hint="Free some space, or use -o on another disk.", path=path) from None


def require_new(final: Path, force: bool = False) -> None:
    """Raises UsageError when something stands at `final` and `force` is off."""
    _restore(final)
    if final.exists() and not force:
        raise UsageError("{path} exists and holds something else.", hint="Use --force to replace it, or another -o.", path=final)


def _swap(staging: Path, final: Path) -> None:
    old = final.with_name(f"{final.name}.old-{os.getpid()}")
    if final.exists():
        final.replace(old)
    staging.replace(final)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)


def _restore(final: Path) -> None:
    """A process that was killed between the two renames of `_swap` left what stood here before beside it."""
    for old in final.parent.glob(f"{final.name}.old-*"):
        match = STAGING.fullmatch(old.name)
        if match and not is_running(int(match["pid"])):
            if final.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.replace(final)


def _remove_abandoned(final: Path) -> None:
    """Staging folders of processes that are gone hold nothing anyone will use."""
    for folder in final.parent.glob(f"{final.name}.staging-*"):
        match = STAGING.fullmatch(folder.name)
        if match and not is_running(int(match["pid"])):
            shutil.rmtree(folder, ignore_errors=True)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def require_idle(work: Path) -> None:
    """Raises UsageError while another process is at work on a folder of unfinished work."""
    owner = work / OWNER
    pid = owner.read_text() if owner.is_file() else ""
    if pid.isdigit() and int(pid) != os.getpid() and is_running(int(pid)):
        raise UsageError("Process {pid} is at work on {folder}.", hint="Wait for it, or use another -o.", pid=pid, folder=work)


def require_space(place: Path, needed: int) -> None:
    """Raises DiskFull unless the disk that will hold `place` has `needed` bytes free."""
    existing = next(p for p in (place, *place.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFull(
            "{path} needs {needed} MB, its disk has {free} MB free.",
            hint="Free some space, or use -o on another disk.",
            path=place,
            needed=needed // 1_000_000,
            free=free // 1_000_000,
        )


def copy_file(source: Path, target: Path) -> None:
    """A real file at `target`: a hard link where the disk allows, else a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
