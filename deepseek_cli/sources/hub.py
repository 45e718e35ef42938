"""What a Hugging Face hub says about a repository, asked through its own client; and which of a repository's files are wanted."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from deepseek_cli.errors import DeepseekError, ModelNotFound, NetworkError
from deepseek_cli.sources.origins import COMMIT, Origin, origin_of
from deepseek_cli.sources.wire import ANSWER_S, ASK_AGAIN_S, TRY_AGAIN, RemoteFile, dishonest, gated, not_found

if TYPE_CHECKING:
    from deepseek_cli.sources.pull_spec import PullSpec

T = TypeVar("T")
CONFIG = "config.json"
WANTED = (  # at the top of the repository; --include reaches the rest
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.json",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
)
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")  # where nothing else holds the weights, and they are allowed
CODE = "*.py"  # is never fetched, whatever is included


def tree(origin: Origin, hub_id: str, revision: str) -> tuple[str, list[RemoteFile]]:
    """The commit behind a revision, and every file, as the hub states them. Raises ModelNotFound, NetworkError."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=origin.endpoint, token=None if origin.name == "hf" else False, library_name="deepseek-cli")
    info = _ask(origin, hub_id, revision, lambda: api.model_info(hub_id, revision=revision, timeout=ANSWER_S))
    commit = str(info.sha)
    if not COMMIT.fullmatch(commit):
        raise dishonest(f"{origin.scheme}:{hub_id}", "the commit", commit)
    entries = _ask(origin, hub_id, revision, lambda: list(api.list_repo_tree(hub_id, recursive=True, revision=commit)))
    return commit, [_file(origin, hub_id, commit, entry) for entry in entries if hasattr(entry, "blob_id")]


def _file(origin: Origin, hub_id: str, commit: str, entry: Any) -> RemoteFile:
    size, digest = (entry.lfs.size, entry.lfs.sha256) if entry.lfs else (entry.size, entry.blob_id)
    stated: Any = size if size == entry.size else f"{entry.size} and {size}"
    return RemoteFile(entry.path, stated, digest, origin.address(hub_id, commit, str(entry.path)))


def fetch_config(hub_id: str, offline: bool) -> Path:
    """A model's config.json: from the hub's cache, else, unless `offline`, from the hub, without the weights.

    Raises ModelNotFound where it is in neither, NetworkError where the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    cached = try_to_load_from_cache(hub_id, CONFIG)
    if isinstance(cached, str):
        return Path(cached)
    if offline:
        raise ModelNotFound(
            "The config of hf:{id} is not on this machine.", hint="Without --offline it would be fetched.", id=hub_id
        )
    origin = origin_of("hf")
    disable_progress_bars()
    return Path(_ask(origin, hub_id, origin.branch, lambda: hf_hub_download(hub_id, CONFIG, endpoint=origin.endpoint)))


def is_wanted(path: str, spec: PullSpec) -> bool:
    wanted = any(fnmatchcase(path, p) for p in spec.include) or ("/" not in path and any(fnmatchcase(path, p) for p in WANTED))
    return wanted and not any(fnmatchcase(path, pattern) for pattern in (*spec.exclude, CODE))


def cached(origin: Origin, hub_id: str, spec: PullSpec) -> Path:
    """The snapshot that is on this machine. Raises NetworkError where there is none."""
    from huggingface_hub import snapshot_download

    revision = spec.revision or origin.branch

    def question() -> str:
        return snapshot_download(
            hub_id,
            revision=revision,
            local_files_only=True,
            allow_patterns=[*WANTED, *spec.include],
            ignore_patterns=[*spec.exclude, CODE],
        )

    return Path(_ask(origin, hub_id, revision, question))


def _ask(origin: Origin, hub_id: str, revision: str, question: Callable[[], T]) -> T:
    for wait in (*ASK_AGAIN_S, None):
        try:
            return question()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
                raise  # this machine's own trouble, not the network's
            status = getattr(getattr(error, "response", None), "status_code", None)
            passing = status in TRY_AGAIN or "TransportError" in _kinds(error)
            if wait is None or not passing:
                _explain(origin, hub_id, revision, error, f"HTTP {status}" if status else type(error).__name__)
        time.sleep(wait)
    raise AssertionError("the last question returns or raises")


def _kinds(error: Exception) -> set[str]:
    """The client's many exceptions are told apart by name: their classes move between its major versions."""
    return {c.__name__ for c in type(error).__mro__}


def _explain(origin: Origin, hub_id: str, revision: str, error: Exception, reason: str) -> NoReturn:
    names, facts = _kinds(error), {"id": hub_id, "endpoint": origin.endpoint, "scheme": origin.scheme}
    if isinstance(error, DeepseekError):
        raise error
    if "GatedRepoError" in names:
        raise gated(origin, hub_id) from None
    if names & {"RepositoryNotFoundError", "HFValidationError"}:
        raise not_found("authorization" in origin.headers(), origin, hub_id) from None
    if "RevisionNotFoundError" in names:
        raise ModelNotFound(
            "{scheme}:{id} has no revision {revision}.", hint="Check --revision.", revision=revision, **facts
        ) from None
    if "DisabledRepoError" in names:
        raise ModelNotFound("{endpoint} has disabled {scheme}:{id}.", hint="See {endpoint}/{id} for why.", **facts) from None
    absent = names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "IncompleteSnapshotError"}
    if absent or (isinstance(error, OSError) and not reason.startswith("HTTP")):
        raise NetworkError(
            "{endpoint} cannot be reached for {scheme}:{id}: {reason}.",
            hint="Check the network, or name a mirror with --source URL or HF_ENDPOINT.",
            reason=reason,
            **facts,
        ) from None
    raise NetworkError(
        "{endpoint} did not give {scheme}:{id}: {reason}.",
        hint="Try again later, or name a mirror with --source URL.",
        reason=reason,
        **facts,
    ) from None
