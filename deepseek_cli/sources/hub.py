"""The Hugging Face hub through its own client: into its cache, so that transformers and vLLM find the files too."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from deepseek_cli.errors import ModelNotFound, ModelUnsupported, NetworkError
from deepseek_cli.reporter import Reporter

if TYPE_CHECKING:
    from deepseek_cli.sources.pull_spec import PullSpec

DEFAULT_ENDPOINT = "https://huggingface.co"
CONFIG = "config.json"


def endpoint(spec: PullSpec) -> str:
    return os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT) if spec.source == "hf" else spec.source


def plan(hub_id: str, spec: PullSpec, wanted: Sequence[str], offline: bool) -> dict[str, int]:
    """Bytes per file that `fetch` would make present."""
    files = _download(hub_id, spec, wanted, offline, dry_run=True)
    return {f.filename: f.file_size for f in files}


def fetch(hub_id: str, spec: PullSpec, wanted: Sequence[str], offline: bool, reporter: Reporter) -> tuple[Path, str]:
    """The snapshot's folder and the commit it is of."""
    root = Path(_download(hub_id, spec, wanted, offline))
    if not any(root.glob("*.safetensors")):
        raise ModelUnsupported(
            "hf:{id} holds no safetensors files.",
            hint="Pickles are refused, since they can run code: look for a converted version.",
            id=hub_id,
        )
    reporter.progress("fetch", 1, 1)
    return root, root.name


def fetch_config(hub_id: str, offline: bool) -> Path:
    """A model's config.json: from the hub's cache, else, unless `offline`, from the hub, without the weights.

    Raises ModelNotFound where it is in neither, NetworkError where the hub cannot be reached.
    """
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(hub_id, CONFIG)
    if isinstance(cached, str):
        return Path(cached)
    if offline:
        raise ModelNotFound(
            "The config of hf:{id} is not on this machine.", hint="Without --offline it would be fetched.", id=hub_id
        )
    from deepseek_cli.sources.pull_spec import PullSpec

    return Path(_download(hub_id, PullSpec(), (CONFIG,), offline=False)) / CONFIG


def _download(hub_id: str, spec: PullSpec, wanted: Sequence[str], offline: bool, **more: Any) -> Any:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        return snapshot_download(
            hub_id,
            revision=spec.revision,
            endpoint=endpoint(spec),
            token=None if spec.source == "hf" else False,  # the user's token is for the hub it belongs to
            allow_patterns=[*wanted, *spec.include],
            ignore_patterns=[*spec.exclude, "*.py", *(() if spec.include else ("*/*",))],
            max_workers=spec.workers,
            local_files_only=offline,
            library_name="deepseek-cli",
            **more,
        )
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise  # this machine's own trouble, not the network's
        _explain(hub_id, spec, error)


def _explain(hub_id: str, spec: PullSpec, error: Exception) -> NoReturn:
    """The client's many exceptions, told apart by name: their classes move between its major versions."""
    names = {c.__name__ for c in type(error).__mro__}
    facts = {"id": hub_id, "endpoint": endpoint(spec)}
    if "GatedRepoError" in names:
        raise ModelNotFound("hf:{id} is gated.", hint="Accept its terms at {endpoint}/{id} and set HF_TOKEN.", **facts) from None
    if "RepositoryNotFoundError" in names or "HFValidationError" in names:
        raise ModelNotFound(
            "{endpoint} has no model {id}, or it is private.", hint="Check the name; for a private one set HF_TOKEN.", **facts
        ) from None
    if "RevisionNotFoundError" in names:
        raise ModelNotFound(
            "hf:{id} has no revision {revision}.", hint="Check --revision.", revision=spec.revision, **facts
        ) from None
    if names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "IncompleteSnapshotError"} or isinstance(
        error, OSError | ConnectionError
    ):
        raise NetworkError(
            "{endpoint} cannot be reached for hf:{id}: {reason}.",
            hint="Check the network, or name a mirror with --source URL or HF_ENDPOINT.",
            reason=type(error).__name__,
            **facts,
        ) from None
    raise NetworkError(
        "{endpoint} did not give hf:{id}: {reason}.",
        hint="Try again later, or name a mirror with --source URL.",
        reason=type(error).__name__,
        **facts,
    ) from None
