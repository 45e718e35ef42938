"""Which files of which commit a pull fetches: asked of the first origin that answers, and checked as a stranger's claim."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module

from deepseek_cli.errors import ModelUnsupported, NetworkError
from deepseek_cli.sources.hub import PICKLED, is_wanted
from deepseek_cli.sources.names import require_inside, require_portable
from deepseek_cli.sources.origins import COMMIT, Origin, origins_of, revision_at
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.sources.wire import RemoteFile, dishonest

TREES = {"hub": "deepseek_cli.sources.hub:tree", "modelscope": "deepseek_cli.sources.modelscope:tree"}
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Listing:
    """The files to fetch of one commit. The first of the origins is the one that stated it; the others may help out."""

    hub_id: str
    origins: tuple[Origin, ...]
    revision: str  # the name that led to the commit
    commit: str  # ModelScope has none: there it stands for the content of all files
    files: tuple[RemoteFile, ...]

    @property
    def endpoint(self) -> str:
        return self.origins[0].endpoint

    def revision_of(self, origin: Origin) -> str:
        """Where a mirror has these files. Its bytes are checked, so the name need not be exact."""
        stated_by = self.origins[0]
        return revision_at(origin, self.commit if stated_by.kind == "hub" else self.revision, stated_by)


def look_up(hub_id: str, spec: PullSpec, paths: Sequence[str] | None = None, scheme: str = "hf") -> Listing:
    """The commit behind `spec.revision`, and what is wanted of its files: by the spec's patterns, or exactly `paths`.

    Raises ModelNotFound, ModelUnsupported, NetworkError; ModelCorrupt for names and figures that no honest hub gives.
    """
    origins, failure = origins_of(scheme, spec), None
    for origin in origins:
        if failure and COMMIT.fullmatch(spec.revision or "") and origin.kind != origins[0].kind:
            continue  # it knows no such commit, and another version is not what was asked for
        revision = revision_at(origin, spec.revision, origins[0]) if origin is not origins[0] else spec.revision or origin.branch
        try:
            commit, found = read_tree(origin, hub_id, revision)
        except NetworkError as error:
            failure = failure or error
            continue
        files = _chosen(f"{origin.scheme}:{hub_id}", found, spec, paths)
        return Listing(hub_id, (origin, *(o for o in origins if o is not origin)), revision, commit, files)
    assert failure
    raise failure


def read_tree(origin: Origin, hub_id: str, revision: str) -> tuple[str, list[RemoteFile]]:
    module, _, name = TREES[origin.kind].partition(":")
    commit, files = getattr(import_module(module), name)(origin, hub_id, revision)
    return commit, files


def _chosen(ref: str, found: Sequence[RemoteFile], spec: PullSpec, paths: Sequence[str] | None) -> tuple[RemoteFile, ...]:
    require_inside((str(file.path) for file in found), ref)
    chosen = [file for file in found if (file.path in paths if paths is not None else is_wanted(file.path, spec))]
    if paths is None and not any(file.path.endswith(".safetensors") for file in chosen):
        chosen += _pickled(found, spec, ref)
    require_portable((file.path for file in chosen), ref)
    for file in chosen:
        if not isinstance(file.size, int) or isinstance(file.size, bool) or file.size < 0:
            raise dishonest(ref, f"the size of {file.path}", file.size)
        if not DIGEST.fullmatch(str(file.digest)):
            raise dishonest(ref, f"the digest of {file.path}", file.digest)
    return tuple(chosen)


def _pickled(found: Sequence[RemoteFile], spec: PullSpec, ref: str) -> list[RemoteFile]:
    """The weights of a repository that has them as pickles only, where these are allowed."""
    pickles = [f for f in found if "/" not in f.path and any(fnmatchcase(f.path, pattern) for pattern in PICKLED)]
    if not pickles:
        raise ModelUnsupported("{ref} holds no safetensors files.", hint="Look for a converted version.", ref=ref)
    if not spec.allow_pickle:
        raise ModelUnsupported(
            "{ref} holds its weights as pickles only ({files}), which can run code when they are opened.",
            hint="Look for a converted version, or let --allow-pickle convert them without running any.",
            ref=ref,
            files=", ".join(file.path for file in pickles[:3]),
        )
    return [file for file in pickles if not is_wanted(file.path, spec)]  # else it is chosen already
