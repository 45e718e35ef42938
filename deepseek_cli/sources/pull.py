"""`deepseek pull`: bring a model to this machine and enter it in the store, checked."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelNotFound, UsageError
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.manifest import FILE, Manifest, list_files, read_manifest, sha256, write_manifest
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.sources import Located, canonical, from_path, name_of
from deepseek_cli.sources.embedded import embedded_folder
from deepseek_cli.sources.origins import Origin
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store, copy_file, require_new, require_space, staged


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


def pull(
    ref: str,
    spec: PullSpec,
    store: Store,
    output: Path | None = None,
    *,
    offline: bool = False,
    dry_run: bool = False,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> Pulled:
    """Fetch or take in what `ref` names.

    Raises NetworkError, ModelNotFound, ModelUnsupported or ModelCorrupt; nothing is entered unless it opens as a model.
    """
    ref = canonical(ref)
    scheme, _, rest = ref.partition(":")
    if scheme in ("hf", "ms") and not offline:
        return _from_hub(ref, spec, store, output, dry_run, force, reporter)
    if scheme in ("hf", "ms"):
        from deepseek_cli.sources.hub import cached
        from deepseek_cli.sources.origins import origins_of

        origin = origins_of(scheme, spec)[0]
        root = cached(origin, rest, spec)
        located = Located(root, _name(rest), None, _source(ref, root.name, spec.revision or origin.branch, origin))
    elif scheme == "pkg":
        from deepseek_cli.sources.package import model_file

        path = model_file(rest)
        located = Located(path, name_of(path), None, {"ref": ref})
    else:
        located = _local(ref)
    if dry_run:
        return Pulled(located.name, located.path, None, {f.name: f.stat().st_size for f in _files(located.path)})
    return _enter(ref, located, store, output, force, reporter)


def _from_hub(
    ref: str, spec: PullSpec, store: Store, output: Path | None, dry_run: bool, force: bool, reporter: Reporter
) -> Pulled:
    from deepseek_cli.sources import fetch
    from deepseek_cli.sources.listing import look_up
    from deepseek_cli.sources.places import Cache

    scheme, _, hub_id = ref.partition(":")
    listing = look_up(hub_id, spec, scheme=scheme)
    name, source = _name(hub_id), _source(ref, listing.commit, listing.revision, listing.origins[0])
    cache = Cache.of(hub_id, listing.commit, listing.revision)
    if dry_run:
        plan = fetch.plan(listing, cache)
        return Pulled(name, Path(), None, plan.files, missing=plan.missing, free=plan.free)
    final = output or store.models / name
    known = read_manifest(final) if final.is_dir() and not force else None
    if known and known.source == source and {f.path for f in listing.files} <= {str(f["path"]) for f in known.files}:
        root = Path(known.root) if known.root else final
        if bool(known.root) != bool(output) and _complete(known, root):
            return Pulled(known.name, final, open_model(str(root), store), {}, unchanged=True)
    if output:
        require_new(output, force)
    reporter.note("Fetching {ref} from {endpoint}.", ref=ref, endpoint=listing.endpoint)
    with fetch.folder_beside(output, listing) if output else contextlib.nullcontext(cache) as place:
        files = fetch.fetch(listing, spec, place, reporter)
        return _enter(ref, Located(place.folder, name, None, source), store, output, force, reporter, files)


def _name(hub_id: str) -> str:
    return hub_id.replace("/", "--")


def _source(ref: str, commit: str, revision: str, origin: Origin) -> dict[str, Any]:
    """The branch stands there where no commit can be asked for again."""
    branch = {} if origin.kind == "hub" else {"branch": revision}
    return {"ref": ref, "revision": commit} | ({} if origin.name == "hf" else {"endpoint": origin.name}) | branch


def _local(ref: str) -> Located:
    path = Path(ref).expanduser()
    if folder := embedded_folder(ref):
        return Located(folder, name_of(folder), None, {"ref": name_of(folder)})
    if not path.exists():
        raise ModelNotFound("There is no file or folder {path}.", hint="Name a path, hf:ORG/NAME or pkg:PACKAGE.", path=ref)
    found = from_path(path.resolve(), ref)
    return found if found.manifest else dataclasses.replace(found, source={"ref": ref})  # a result of ours keeps its lineage


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(f for f in path.iterdir() if f.is_file() and f.suffix != ".py")


def _enter(
    ref: str,
    located: Located,
    store: Store,
    output: Path | None,
    force: bool,
    reporter: Reporter,
    checked: tuple[dict[str, Any], ...] = (),
) -> Pulled:
    """`checked` are the files whose digests are known already."""
    handle = open_model(str(located.path), store)  # refuses what is damaged before anything is written
    if output and located.path.is_dir() and output.resolve().is_relative_to(located.path.resolve()):
        raise UsageError("The output {path} lies inside the model's own folder.", hint="Choose another -o.", path=output)
    final = output or store.models / located.name
    known = read_manifest(final) if final.is_dir() else None
    pulled = known is not None and (output or known.root) and known.source.get("ref") == located.source.get("ref")
    same = known and pulled and known.source == located.source and not checked
    if known and same and _complete(known, final if output else located.path) and not force:
        return Pulled(known.name, final, handle, {}, unchanged=True)
    manifest = located.manifest or Manifest(located.name, source=located.source)
    manifest = dataclasses.replace(manifest, root=None if output else str(located.path))
    names = [Path(f["path"]) for f in checked] or [Path(f.name) for f in _files(located.path)]
    if output:
        require_space(output, 0 if checked else sum(f.stat().st_size for f in _files(located.path)))
    with staged(final, force or bool(pulled and not output)) as folder:
        if output:
            _copy(located.path, folder, names)
        base = folder if output else located.path
        files = checked or (_hashed(base, reporter) if base.is_dir() else _one(base))
        write_manifest(folder, dataclasses.replace(manifest, files=files))
    return Pulled(located.name, final, open_model(str(final), store) if checked and output else handle, {})


def _hashed(base: Path, reporter: Reporter) -> tuple[dict[str, Any], ...]:
    size = sum(f.stat().st_size for f in _files(base))
    return list_files(base, lambda done: reporter.progress("sha256", done, size, "B"))


def _complete(manifest: Manifest, root: Path) -> bool:
    """Whether the files that were pulled are still there, each with its size."""
    files = [((root if root.is_dir() else root.parent) / f["path"], f["bytes"]) for f in manifest.files]
    return all(path.is_file() and path.stat().st_size == size for path, size in files)


def _copy(source: Path, folder: Path, names: list[Path]) -> None:
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


def _one(path: Path) -> tuple[dict[str, Any], ...]:
    return ({"path": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)},)
