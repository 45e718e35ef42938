"""A model of a hub: which of its files are fetched, what is looked at before, and what is written down of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.fields import parse_json
from deepseek_cli.formats.headers import INDEX, draft_shards, weight_map_of
from deepseek_cli.formats.quantized import normalized
from deepseek_cli.handle import open_model, read_config
from deepseek_cli.manifest import Manifest, read_manifest
from deepseek_cli.sources import Located, fetch, hub, pickles
from deepseek_cli.sources.enter import Errand, Pulled, enter, files_of, is_complete
from deepseek_cli.sources.fetch import Records
from deepseek_cli.sources.hub import CONFIG
from deepseek_cli.sources.listing import Listing, look_up
from deepseek_cli.sources.lock import Lock, lock_of, read_lock, require_held, require_same, write_lock
from deepseek_cli.sources.origins import Origin, origins_of
from deepseek_cli.sources.places import Cache
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.sources.wire import RemoteFile
from deepseek_cli.spec import format_size
from deepseek_cli.store import require_new


@dataclass(frozen=True, slots=True)
class Chosen:
    """What will be fetched, the model's config.json, and files that only draft further tokens, which stay away."""

    listing: Listing
    config: Mapping[str, Any]
    left_out: tuple[RemoteFile, ...] = ()


def from_hub(errand: Errand, hub_id: str) -> Pulled:
    """Raises what `look_up` and `fetch` raise, and ModelUnsupported for a family that is not, before its weights come."""
    spec = errand.spec
    lock = read_lock(spec, errand.ref) if spec.locked else None
    chosen = _locked(errand, lock) if lock else _choose(errand, hub_id, spec)
    listing, name = chosen.listing, name_of(hub_id)
    if chosen.left_out:
        errand.reporter.note(
            "{count} files, {size}, only draft further tokens (MTP) and are left out: --set mtp=true fetches them.",
            count=len(chosen.left_out),
            size=format_size(sum(file.size for file in chosen.left_out)),
        )
    if errand.dry_run:
        errand.before(name, chosen.config)
        plan = fetch.plan(listing, Cache.of(hub_id, listing.commit, listing.revision))
        return Pulled(name, Path(), None, plan.files, missing=plan.missing, free=plan.free)
    done, records = _unchanged(errand, listing, lock) or _bring(errand, name, chosen)
    if spec.lock and not lock and write_lock(spec.lock, lock_of(errand.ref, spec, listing, records)):
        errand.reporter.note("{file} locks {ref} at {commit}.", file=spec.lock, ref=errand.ref, commit=listing.commit[:12])
    return done


def from_cache(errand: Errand, hub_id: str) -> Pulled:
    """Without a network: the snapshot that is on this machine."""
    spec = errand.spec
    lock = read_lock(spec, errand.ref) if spec.locked else None
    origin = origins_of(_scheme(errand), spec)[0]
    root = hub.cached(origin, hub_id, dataclasses.replace(spec, revision=lock.commit) if lock else spec)
    located = Located(root, name_of(hub_id), None, _source(errand, root.name, spec.revision or origin.branch, origin))
    if errand.dry_run:
        return Pulled(located.name, root, None, {f.name: f.stat().st_size for f in files_of(root)})
    return enter(errand, located, require_held(lock, root, _path(spec)) if lock else ())


def name_of(hub_id: str) -> str:
    return hub_id.replace("/", "--")


def _scheme(errand: Errand) -> str:
    return errand.ref.partition(":")[0]


def _source(errand: Errand, commit: str, revision: str, origin: Origin) -> dict[str, Any]:
    """The branch stands there where no commit can be asked for again."""
    branch = {} if origin.kind == "hub" else {"branch": revision}
    return {"ref": errand.ref, "revision": commit} | ({} if origin.name == "hf" else {"endpoint": origin.name}) | branch


def _source_of(errand: Errand, listing: Listing) -> dict[str, Any]:
    return _source(errand, listing.commit, listing.revision, listing.origins[0])


def _path(spec: PullSpec) -> Path:
    assert spec.lock  # `read_lock` has looked
    return spec.lock


def _choose(errand: Errand, hub_id: str, spec: PullSpec) -> Chosen:
    """By the spec's patterns; without shards that only draft, unless they are asked for."""
    listing = look_up(hub_id, spec, scheme=_scheme(errand))
    files = {file.path: file for file in listing.files}
    if CONFIG not in files:
        raise ModelUnsupported("{ref} holds no config.json.", hint="Name a language model's repository.", ref=errand.ref)
    described = _described(errand, listing, [CONFIG] if spec.mtp else [CONFIG, INDEX])
    config = parse_json(described[CONFIG], Path(CONFIG))
    _, typed = read_config(Path(CONFIG), normalized(config))
    spare: set[str] = set()
    if INDEX in described:
        spare = draft_shards(weight_map_of(parse_json(described[INDEX], Path(INDEX)), Path(INDEX)), typed.layers)
    kept = tuple(file for file in listing.files if file.path not in spare)
    return Chosen(dataclasses.replace(listing, files=kept), config, tuple(files[path] for path in sorted(spare & files.keys())))


def _locked(errand: Errand, lock: Lock) -> Chosen:
    """As the lock says. The hub is asked only for what is not on this machine, and must then say the same."""
    spec = errand.spec
    listing = lock.listing(spec)
    if not fetch.is_held(listing, Cache.of(listing.hub_id, lock.commit, listing.revision)):
        asked = lock.commit if listing.origins[0].kind == "hub" else lock.revision
        fresh = _choose(errand, listing.hub_id, dataclasses.replace(spec, revision=asked))
        require_same(lock, fresh.listing, _path(spec))
    config = _described(errand, listing, [CONFIG]).get(CONFIG, b"{}")
    return Chosen(listing, parse_json(config, Path(CONFIG)))


def _described(errand: Errand, listing: Listing, paths: Sequence[str]) -> dict[str, bytes]:
    wanted = tuple(file for file in listing.files if file.path in paths)
    return fetch.read(dataclasses.replace(listing, files=wanted), errand.spec, errand.reporter)


def _unchanged(errand: Errand, listing: Listing, lock: Lock | None) -> tuple[Pulled, Records] | None:
    """What an earlier pull brought, where it is of this commit, has these files, and all of them are there."""
    output, store = errand.output, errand.store
    final = output or store.models / name_of(listing.hub_id)
    known = read_manifest(final) if final.is_dir() and not errand.force else None
    if not known or known.source != _source_of(errand, listing):
        return None
    records, root = _fetched(known), Path(known.root) if known.root else final
    by_path = {record["path"]: record["sha256"] for record in records}
    wanted = {f["path"]: f["sha256"] for f in lock.files} if lock else {f.path: by_path.get(f.path) for f in listing.files}
    in_place = bool(known.root) != bool(output) or (pickles.were_converted(known) and not known.root)
    if not all(digest and by_path.get(path) == digest for path, digest in wanted.items()) or not in_place:
        return None
    if not is_complete(known, root):
        return None
    return Pulled(known.name, final, open_model(str(root), store), {}, unchanged=True), records


def _fetched(manifest: Manifest) -> Records:
    """Of what was converted, the pickles."""
    if pickles.were_converted(manifest):
        return tuple(manifest.steps[0]["resolved"]["files"])
    return manifest.files


def _bring(errand: Errand, name: str, chosen: Chosen) -> tuple[Pulled, Records]:
    listing, spec, output = chosen.listing, errand.spec, errand.output
    if output:
        require_new(output, errand.force)
    errand.before(name, chosen.config)
    errand.reporter.note("Fetching {ref} from {endpoint}.", ref=errand.ref, endpoint=listing.endpoint)
    source = _source_of(errand, listing)
    if pickles.only_pickles(listing):
        return pickles.bring(errand, name, source, listing)
    cache = Cache.of(listing.hub_id, listing.commit, listing.revision)
    with fetch.folder_beside(output, listing) if output else contextlib.nullcontext(cache) as place:
        records = fetch.fetch(listing, spec, place, errand.reporter)
        return enter(errand, Located(place.folder, name, None, source), records), records
