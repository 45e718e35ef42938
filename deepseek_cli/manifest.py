"""deepseek.json: what a folder is, where it came from, what was done to it, and how far that was checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepseek_cli import __version__
from deepseek_cli.errors import ModelCorrupt, ModelUnsupported
from deepseek_cli.fields import read_json

FILE = "deepseek.json"
SCHEMA = "deepseek.manifest/1"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Fields are only ever added. `root` is set where the files lie elsewhere (a pulled model)."""

    name: str
    kind: Literal["model", "bundle", "damaged", "unfinished"] = "model"
    schema: str = SCHEMA
    parent: str | None = None  # fingerprint of what this was made from
    source: dict[str, Any] = dataclasses.field(default_factory=dict)  # ref, revision, licence
    root: str | None = None
    steps: tuple[dict[str, Any], ...] = ()  # command, spec as given, spec as resolved, versions, seed
    files: tuple[dict[str, Any], ...] = ()  # path, bytes, sha256
    quantization: dict[str, Any] = dataclasses.field(default_factory=dict)
    readers: tuple[str, ...] = ()
    report: dict[str, Any] | None = None
    verification: dict[str, Any] | None = None


OPTIONAL_TEXT, OPTIONAL_OBJECT = (str, type(None)), (dict, type(None))
TYPES: dict[str, Any] = {
    "name": str,
    "kind": str,
    "schema": str,
    "parent": OPTIONAL_TEXT,
    "source": dict,
    "root": OPTIONAL_TEXT,
    "steps": list,
    "files": list,
    "quantization": dict,
    "readers": list,
    "report": OPTIONAL_OBJECT,
    "verification": OPTIONAL_OBJECT,
}


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder, or None where there is none.

    Raises ModelCorrupt for a damaged one, ModelUnsupported for a schema of another major version.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    values = read_json(file)
    if values.get("schema") != SCHEMA:
        raise ModelUnsupported(
            "{file} has schema {schema}.",
            hint="This version reads {known}.",
            file=file,
            schema=values.get("schema"),
            known=SCHEMA,
        )
    for field, allowed in TYPES.items():
        if field in values and not isinstance(values[field], allowed):
            raise ModelCorrupt("{file}: {field} has the wrong type.", hint="Make the folder again.", file=file, field=field)
    if values.get("kind", "model") not in ("model", "bundle"):
        raise ModelCorrupt("{file}: kind is neither model nor bundle.", hint="Make the folder again.", file=file)
    picked = {field: values[field] for field in TYPES if field in values}
    picked |= {field: tuple(value) for field, value in picked.items() if TYPES[field] is list}
    picked.setdefault("name", folder.name)
    return Manifest(**picked)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False)
    staged = folder / f"{FILE}.new"
    staged.write_text(text + "\n", encoding="utf-8")
    staged.replace(folder / FILE)


def step(command: str, given: dict[str, Any], resolved: dict[str, Any], seed: int | None = None) -> dict[str, Any]:
    """One entry of `steps`."""
    return {"command": command, "given": given, "resolved": resolved, "versions": {"deepseek-cli": __version__}, "seed": seed}


def list_files(
    folder: Path, progress: Callable[[int], None] = lambda done: None, *, nested: bool = False
) -> tuple[dict[str, Any], ...]:
    """Path, bytes and sha256 of every file in a folder but the manifest itself; `nested` goes into folders in it."""
    found: list[dict[str, Any]] = []
    done = 0
    for path in sorted(p for p in (folder.rglob("*") if nested else folder.iterdir()) if p.is_file() and p != folder / FILE):
        found.append({"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)})
        done += found[-1]["bytes"]
        progress(done)
    return tuple(found)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """A quick identity of files: names, sizes, and the first MiB of each. `verify` compares whole files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root) if path != root else path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
    return digest.hexdigest()
