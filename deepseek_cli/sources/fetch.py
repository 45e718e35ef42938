"""Bring the files of a listing to their place: what is there stays, what is missing is fetched, and everything is hashed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelCorrupt, ModelError, ModelNotFound, UsageError
from deepseek_cli.fields import MAX_JSON_BYTES, read_json
from deepseek_cli.manifest import Manifest
from deepseek_cli.reporter import Reporter, WithoutProgress
from deepseek_cli.sources.download import Download, Transfer
from deepseek_cli.sources.listing import Listing, look_up
from deepseek_cli.sources.places import Cache, Folder, Place
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.sources.relay import Relay
from deepseek_cli.sources.wire import RemoteFile
from deepseek_cli.store import RECORD, WORK, filling, making_room, require_space

Records = tuple[dict[str, Any], ...]  # path, bytes, sha256: as a manifest lists files


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes by file, what of them is not here yet, and the room on the disk they would go to."""

    files: dict[str, int]
    missing: int
    free: int


def plan(listing: Listing, place: Place) -> Plan:
    transfers = _transfers(listing.files, place)
    existing = next(path for path in (place.folder, *place.folder.absolute().parents) if path.exists())
    sizes = {file.path: file.size for file in listing.files}
    return Plan(sizes, sum(t.file.size - t.arrived for t in transfers), shutil.disk_usage(existing).free)


def is_held(listing: Listing, place: Place) -> bool:
    """Whether all files are there already, each with its size."""
    finals = ((place.final(file), file.size) for file in listing.files)
    return all(path.is_file() and path.stat().st_size == size for path, size in finals)


def read(listing: Listing, spec: PullSpec, reporter: Reporter) -> dict[str, bytes]:
    """The content of small files, from the cache or the hub. Nothing of them is kept.

    Raises what `fetch` does, ModelCorrupt for a file that is not small.
    """
    large = next((file.path for file in listing.files if file.size > MAX_JSON_BYTES), None)
    if large:
        raise ModelCorrupt("{file} is larger than any real configuration.", hint="Look at where it comes from.", file=large)
    cache = Cache.of(listing.hub_id, listing.commit, None)
    with tempfile.TemporaryDirectory() as folder:
        place = Folder(Path(folder))
        for file in listing.files:
            _take(cache.final(file), place.final(file), file)
        fetch(listing, spec, place, WithoutProgress(reporter))
        return {file.path: place.final(file).read_bytes() for file in listing.files}


def fetch(listing: Listing, spec: PullSpec, place: Place, reporter: Reporter) -> Records:
    """Every file of the listing at its place, whole and with the digest it should have; only then it is shown.

    Raises what `look_up` and `Relay.fetch` do, DiskFull before the first byte, UsageError while another process is at it.
    """
    with making_room(place.lock):
        place.lock.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place.lock, listing), filling(place.folder):
        transfers = _transfers(listing.files, place)
        missing = sum(t.file.size - t.arrived for t in transfers)
        require_space(place.folder, missing)
        if missing and (kept := sum(t.arrived for t in transfers if not t.present)):
            reporter.note("Going on with {mb} MB that were fetched before.", mb=round(kept / 1e6))
        with contextlib.closing(Relay(listing, spec.max_rate)) as relay:
            Download(relay, transfers, _accept).run(spec.workers, reporter)
        place.publish(listing.files)
    sha256 = {t.final: t.sha256 for t in transfers}
    return tuple({"path": f.path, "bytes": f.size, "sha256": sha256[place.final(f)]} for f in listing.files)


def repair(manifest: Manifest, root: Path, wrong: Sequence[str], reporter: Reporter) -> None:
    """Put right the `wrong` files of a pulled model; the right chunks of a file stay.

    Raises UsageError where the model does not come from a hub.
    """
    source = manifest.source
    scheme, _, hub_id = str(source.get("ref")).partition(":")
    commit = source.get("revision")
    if manifest.parent or manifest.steps or scheme not in ("hf", "ms") or not commit:
        hint = "Only what was pulled from a hub can be fetched again: make this one anew."
        raise UsageError("{name} cannot be repaired.", hint=hint, name=manifest.name)
    spec = PullSpec(revision=source.get("branch", commit), source=source.get("endpoint", "hf"))
    listing = look_up(hub_id, spec, wrong, scheme)
    if listing.commit != commit:
        raise ModelNotFound(
            "{ref} has other files by now.", hint="Pull it again: deepseek pull {ref} --force", ref=source.get("ref")
        )
    place = Cache.of(listing.hub_id, commit, commit) if manifest.root else Folder(root)
    fetch(listing, spec, place, reporter)
    if isinstance(place, Folder):
        place.lock.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_beside(output: Path, listing: Listing) -> Iterator[Folder]:
    """`<output>.work/files`, which outlives a failure, so that the next run goes on with it; it goes when the block ends well."""
    work = output.with_name(output.name + WORK)
    record, asked = work / RECORD, {"pull": listing.hub_id, "commit": listing.commit}
    if work.exists() and not record.is_file():
        raise UsageError(
            "{folder} is where unfinished work would be kept, and it holds something else.",
            hint="Move that away, or use another -o.",
            folder=work,
        )
    if record.is_file() and read_json(record) != asked:
        shutil.rmtree(work)
    with making_room(output):
        (work / "files").mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(asked))
    folder, cache = Folder(work / "files"), Cache.of(listing.hub_id, listing.commit, None)
    with filling(output):
        for file in listing.files:
            _take(cache.final(file), folder.final(file), file)
    yield folder
    shutil.rmtree(work)


def _take(cached: Path, final: Path, file: RemoteFile) -> None:
    """A copy of what the cache holds already, which is hashed like everything else."""
    if cached.is_file() and cached.stat().st_size == file.size and not final.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        new = final.with_name(f"{final.name}.deepseek-{os.getpid()}")
        shutil.copyfile(cached, new)
        new.replace(final)


def _transfers(files: Sequence[RemoteFile], place: Place) -> list[Transfer]:
    """Small files first: a model that cannot be used shows early. In the cache, files of equal content are one."""
    ordered = sorted(files, key=lambda f: (f.path.endswith(".safetensors"), f.path))
    return list({place.final(file): Transfer.of(file, place.final(file)) for file in ordered}.values())


def _accept(file: RemoteFile, path: Path) -> None:
    if file.path.endswith(".safetensors"):
        from deepseek_cli.formats.headers import read_header

        try:
            read_header(path)
        except ModelError as error:
            error.facts["file"] = file.path  # and not where its bytes lie for now
            raise


@contextlib.contextmanager
def _alone(lock: Path, listing: Listing) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise UsageError("Another process is fetching {id}.", hint="Wait for it.", id=listing.hub_id) from None
