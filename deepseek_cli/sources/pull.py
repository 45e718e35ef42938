"""`deepseek pull`: bring a model to this machine and enter it in the store, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelNotFound, UsageError
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.sources import Located, canonical, from_path, name_of
from deepseek_cli.sources.catalogue import nearest, pinned
from deepseek_cli.sources.embedded import embedded_folder
from deepseek_cli.sources.enter import Errand, Pulled, enter, files_of
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store


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
    before: Callable[[str, Mapping[str, Any]], None] = lambda name, config: None,
) -> Pulled:
    """Fetch or take in what `ref` names. `before` is shown a hub's model before its weights are fetched (see `Errand`).

    Raises NetworkError, ModelNotFound, ModelUnsupported or ModelCorrupt; nothing is entered unless it opens as a model.
    """
    errand = Errand(canonical(ref), pinned(ref, spec, reporter), store, output, offline, dry_run, force, reporter, before)
    scheme, _, rest = errand.ref.partition(":")
    if scheme in ("hf", "ms"):
        from deepseek_cli.sources import pull_hub

        return pull_hub.from_cache(errand, rest) if offline else pull_hub.from_hub(errand, rest)
    if spec.lock or spec.locked:
        raise UsageError("{ref} comes from no hub, so there is nothing to lock.", hint="Leave --lock and --locked out.", ref=ref)
    if scheme == "pkg":
        from deepseek_cli.sources.package import model_file

        path = model_file(rest)
        located = Located(path, name_of(path), None, {"ref": ref})
    else:
        located = _local(ref)
    if dry_run:
        return Pulled(located.name, located.path, None, {f.name: f.stat().st_size for f in files_of(located.path)})
    return enter(errand, located)


def _local(ref: str) -> Located:
    path = Path(ref).expanduser()
    if folder := embedded_folder(ref):
        return Located(folder, name_of(folder), None, {"ref": name_of(folder)})
    if not path.exists():
        close = nearest(ref)
        hint = "Did you mean {close}?" if close else "Name a path, an alias, hf:ORG/NAME or pkg:PACKAGE."
        raise ModelNotFound("There is no file or folder {path}.", hint=hint, path=ref, close=close)
    found = from_path(path.resolve(), ref)
    return found if found.manifest else dataclasses.replace(found, source={"ref": ref})  # a result of ours keeps its lineage
