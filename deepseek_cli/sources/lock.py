"""deepseek.lock.json: which files of which commit a pull brought, so that another pull brings the same ones or says no.

    {"schema": "deepseek.lock/1", "source": "hf:ORG/NAME", "revision": "main", "commit": "…", "options": {},
     "files": [{"path": "config.json", "bytes": 679, "sha256": "…", "git_sha1": "…"}, …]}

`options` are those that chose the files. `git_sha1` stands where that is the digest by which a hub knows the file. Where the
bytes come from is not locked: they are the same everywhere. Fields are only ever added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelCorrupt, ModelError, UsageError
from deepseek_cli.fields import read_json
from deepseek_cli.manifest import sha256
from deepseek_cli.sources.listing import Listing
from deepseek_cli.sources.names import require_inside, require_portable
from deepseek_cli.sources.origins import origins_of
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.sources.wire import RemoteFile
from deepseek_cli.spec import as_record
from deepseek_cli.store import making_room

SCHEMA = "deepseek.lock/1"
CHOOSING = ("include", "exclude", "allow_pickle", "mtp")
DIGESTS = {"sha256": r"[0-9a-f]{64}", "git_sha1": r"[0-9a-f]{40}"}


@dataclass(frozen=True, slots=True)
class Lock:
    """`files` hold path, bytes, sha256 and, some of them, git_sha1."""

    source: str
    revision: str | None
    commit: str
    options: Mapping[str, Any]
    files: tuple[Mapping[str, Any], ...]

    def listing(self, spec: PullSpec) -> Listing:
        """What a hub would list."""
        scheme, _, hub_id = self.source.partition(":")
        origins = origins_of(scheme, spec)
        revision = self.revision or origins[0].branch
        at = self.commit if origins[0].kind == "hub" else revision
        found = (
            RemoteFile(f["path"], f["bytes"], f.get("git_sha1") or f["sha256"], origins[0].address(hub_id, at, f["path"]))
            for f in self.files
        )
        return Listing(hub_id, origins, revision, self.commit, tuple(found))


def lock_of(source: str, spec: PullSpec, listing: Listing, records: Sequence[Mapping[str, Any]]) -> Lock:
    """`records` are the files of `listing` with their sha256."""
    by_path = {record["path"]: record["sha256"] for record in records}
    files = tuple(
        {"path": f.path, "bytes": f.size, "sha256": by_path[f.path]} | ({"git_sha1": f.digest} if len(f.digest) == 40 else {})
        for f in sorted(listing.files, key=lambda f: f.path)
    )
    return Lock(source, spec.revision, listing.commit, choosing(spec), files)


def write_lock(path: Path, lock: Lock) -> bool:
    """Whether the file says something new now."""
    document = {
        "schema": SCHEMA,
        "source": lock.source,
        "revision": lock.revision,
        "commit": lock.commit,
        "options": dict(lock.options),
        "files": list(map(dict, lock.files)),
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    new = path.with_name(f"{path.name}.new")
    with making_room(path):
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    return True


def read_lock(spec: PullSpec, source: str) -> Lock:
    """The lock file of this model. Raises UsageError where there is none, it is damaged, or says something else than `spec`."""
    path = spec.lock
    if path is None:
        raise UsageError(
            "--locked needs a lock file.",
            hint="Name one with --lock FILE, or run it where ./deepseek.toml names the model.",
        )
    if not path.is_file():
        hint = "Write it first: deepseek pull {source} --lock {file}"
        raise UsageError("There is no lock file {file}.", hint=hint, file=path, source=source)
    lock = _checked(path)
    if lock.source != source:
        hint = "Name that model, or another lock file."
        raise UsageError("{file} is for {locked}, not for {source}.", hint=hint, file=path, locked=lock.source, source=source)
    if spec.revision not in (None, lock.revision, lock.commit):
        hint = "Leave --revision out, or pull without --locked to lock it."
        raise UsageError("{file} locks another revision than {revision}.", hint=hint, file=path, revision=spec.revision)
    if choosing(spec) != lock.options:
        raise UsageError(
            "{file} was written with other options: {options}.",
            hint="Give the same, or pull without --locked to lock these.",
            file=path,
            options=", ".join(f"{name}={value}" for name, value in lock.options.items()) or "none",
        )
    return lock


def require_same(lock: Lock, listing: Listing, file: Path) -> None:
    """Raises ModelCorrupt naming the first file that the hub has otherwise than it was locked."""
    locked, found = {f["path"]: f for f in lock.files}, {f.path: f for f in listing.files}
    for path in sorted(locked.keys() | found.keys()):
        if path not in found:
            raise _drifted("{path} is in {file}, and {source} has no such file.", lock, file, path)
        if path not in locked:
            raise _drifted("{path} is not in {file}, and {source} has it.", lock, file, path)
        digest = locked[path].get("git_sha1" if len(found[path].digest) == 40 else "sha256")
        if (found[path].size, found[path].digest) != (locked[path]["bytes"], digest):
            raise _drifted("{path} is another file at {source} than in {file}.", lock, file, path)


def require_held(lock: Lock, root: Path, file: Path) -> tuple[dict[str, Any], ...]:
    """The locked files, hashed where they lie. Raises ModelCorrupt naming the first that is missing or different."""
    for locked in lock.files:
        held = root / locked["path"]
        if not held.is_file():
            raise _drifted("{path} is in {file}, and is not on this machine.", lock, file, locked["path"])
        if held.stat().st_size != locked["bytes"] or sha256(held) != locked["sha256"]:
            raise _drifted("{path} is another file on this machine than in {file}.", lock, file, locked["path"])
    return tuple({key: locked[key] for key in ("path", "bytes", "sha256")} for locked in lock.files)


def _drifted(message: str, lock: Lock, file: Path, path: str) -> ModelCorrupt:
    hint = "Find out why; to lock what is there now, pull without --locked."
    return ModelCorrupt(message, hint=hint, path=path, file=file, source=lock.source)


def choosing(spec: PullSpec) -> dict[str, Any]:
    """The options that say which files are fetched, where they differ from their defaults."""
    return {name: value for name, value in as_record(spec).items() if name in CHOOSING}


def _checked(path: Path) -> Lock:
    """Lock files are handed around: nothing in one is believed before it was looked at."""
    hint = "Write it anew: pull without --locked."
    try:
        values = read_json(path)
        files = values.get("files")
        if not isinstance(files, list) or not all(map(_is_file, files)) or not _is_sound(values):
            raise UsageError("{file} is no lock file of schema {schema}.", hint=hint, file=path, schema=SCHEMA)
        require_inside((f["path"] for f in files), str(path))
        require_portable((f["path"] for f in files), str(path))
    except ModelError as error:
        raise UsageError(error.message, hint=hint, **error.facts) from None
    return Lock(values["source"], values.get("revision"), values["commit"], values.get("options", {}), tuple(files))


def _is_sound(values: Mapping[str, Any]) -> bool:
    texts = isinstance(values.get("source"), str) and isinstance(values.get("revision"), str | None)
    commit = re.fullmatch(r"[0-9a-f]{40}", str(values.get("commit")))
    return values.get("schema") == SCHEMA and texts and bool(commit) and isinstance(values.get("options", {}), dict)


def _is_file(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or "sha256" not in entry:
        return False
    sizes = type(entry.get("bytes")) is int and entry["bytes"] >= 0
    return sizes and all(re.fullmatch(DIGESTS[name], str(entry[name])) for name in DIGESTS if name in entry)
