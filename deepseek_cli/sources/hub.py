"""What a Hugging Face hub says about a repository, asked through its own client: commit, files, sizes and digests."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import quote

from deepseek_cli.errors import DeepseekError, ModelCorrupt, ModelNotFound, ModelUnsupported, NetworkError
from deepseek_cli.sources.names import require_inside, require_portable
from deepseek_cli.sources.wire import TRY_AGAIN, RemoteFile, gated, not_found

if TYPE_CHECKING:
    from deepseek_cli.sources.pull_spec import PullSpec

T = TypeVar("T")
DEFAULT_ENDPOINT = "https://huggingface.co"
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
ASK_AGAIN_S = (1, 3)  # waits between the questions about one repository
ANSWER_S = 15


@dataclass(frozen=True, slots=True)
class Listing:
    """The files to fetch of one commit."""

    hub_id: str
    endpoint: str
    commit: str
    files: tuple[RemoteFile, ...]


def endpoint(spec: PullSpec) -> str:
    return (os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT) if spec.source == "hf" else spec.source).rstrip("/")


def headers(spec: PullSpec) -> dict[str, str]:
    """Of every request to the hub itself. The user's token is for the hub it belongs to, not for a mirror."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    return build_hf_headers(token=None if spec.source == "hf" else False, library_name="deepseek-cli")


def look_up(hub_id: str, spec: PullSpec, paths: Sequence[str] | None = None) -> Listing:
    """The commit behind `spec.revision`, and what is wanted of its files: by the spec's patterns, or exactly `paths`.

    Raises ModelNotFound, ModelUnsupported, NetworkError; ModelCorrupt for names and figures that no honest hub gives.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint(spec), token=None if spec.source == "hf" else False, library_name="deepseek-cli")
    info = _ask(hub_id, spec, lambda: api.model_info(hub_id, revision=spec.revision, timeout=ANSWER_S))
    commit, ref = str(info.sha), f"hf:{hub_id}"
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise _dishonest(ref, "the commit", commit)
    entries = _ask(hub_id, spec, lambda: list(api.list_repo_tree(hub_id, recursive=True, revision=commit)))
    found = [entry for entry in entries if hasattr(entry, "blob_id")]
    require_inside((str(entry.path) for entry in found), ref)
    chosen = [entry for entry in found if (entry.path in paths if paths is not None else is_wanted(entry.path, spec))]
    if paths is None and not any(entry.path.endswith(".safetensors") for entry in chosen):
        chosen += _pickled(found, spec, ref)
    require_portable((entry.path for entry in chosen), ref)
    return Listing(hub_id, endpoint(spec), commit, tuple(_remote(e, address(spec, hub_id, commit, e.path), ref) for e in chosen))


def address(spec: PullSpec, hub_id: str, commit: str, path: str) -> str:
    return f"{endpoint(spec)}/{hub_id}/resolve/{commit}/{quote(path)}"


def _pickled(found: Sequence[Any], spec: PullSpec, ref: str) -> list[Any]:
    """The weights of a repository that has them as pickles only, where these are allowed."""
    pickles = [e for e in found if "/" not in e.path and any(fnmatchcase(e.path, pattern) for pattern in PICKLED)]
    if not pickles:
        raise ModelUnsupported("{ref} holds no safetensors files.", hint="Look for a converted version.", ref=ref)
    if not spec.allow_pickle:
        raise ModelUnsupported(
            "{ref} holds its weights as pickles only ({files}), which can run code when they are opened.",
            hint="Look for a converted version, or let --allow-pickle convert them without running any.",
            ref=ref,
            files=", ".join(entry.path for entry in pickles[:3]),
        )
    return [entry for entry in pickles if not is_wanted(entry.path, spec)]  # else it is chosen already


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
    from deepseek_cli.sources.pull_spec import PullSpec

    disable_progress_bars()
    spec = PullSpec()
    return Path(_ask(hub_id, spec, lambda: hf_hub_download(hub_id, CONFIG, endpoint=endpoint(spec))))


def is_wanted(path: str, spec: PullSpec) -> bool:
    wanted = any(fnmatchcase(path, p) for p in spec.include) or ("/" not in path and any(fnmatchcase(path, p) for p in WANTED))
    return wanted and not any(fnmatchcase(path, pattern) for pattern in (*spec.exclude, CODE))


def cached(hub_id: str, spec: PullSpec) -> Path:
    """The snapshot that is on this machine. Raises NetworkError where there is none."""
    from huggingface_hub import snapshot_download

    def question() -> str:
        return snapshot_download(
            hub_id,
            revision=spec.revision,
            local_files_only=True,
            allow_patterns=[*WANTED, *spec.include],
            ignore_patterns=[*spec.exclude, CODE],
        )

    return Path(_ask(hub_id, spec, question))


def _remote(entry: Any, url: str, ref: str) -> RemoteFile:
    size, digest = (entry.lfs.size, entry.lfs.sha256) if entry.lfs else (entry.size, entry.blob_id)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or size != entry.size:
        raise _dishonest(ref, f"the size of {entry.path}", size)
    if not re.fullmatch(r"[0-9a-f]{64}" if entry.lfs else r"[0-9a-f]{40}", str(digest)):
        raise _dishonest(ref, f"the digest of {entry.path}", digest)
    return RemoteFile(entry.path, size, digest, url)


def _dishonest(ref: str, what: str, value: object) -> ModelCorrupt:
    hint = "Do not use this repository, or try another source."
    return ModelCorrupt("{ref}: {what} cannot be {value!r}.", hint=hint, ref=ref, what=what, value=str(value)[:80])


def _ask(hub_id: str, spec: PullSpec, question: Callable[[], T]) -> T:
    for wait in (*ASK_AGAIN_S, None):
        try:
            return question()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
                raise  # this machine's own trouble, not the network's
            status = getattr(getattr(error, "response", None), "status_code", None)
            passing = status in TRY_AGAIN or "TransportError" in _kinds(error)
            if wait is None or not passing:
                _explain(hub_id, spec, error, f"HTTP {status}" if status else type(error).__name__)
        time.sleep(wait)
    raise AssertionError("the last question returns or raises")


def _kinds(error: Exception) -> set[str]:
    """The client's many exceptions are told apart by name: their classes move between its major versions."""
    return {c.__name__ for c in type(error).__mro__}


def _explain(hub_id: str, spec: PullSpec, error: Exception, reason: str) -> NoReturn:
    names, facts = _kinds(error), {"id": hub_id, "endpoint": endpoint(spec)}
    if isinstance(error, DeepseekError):
        raise error
    if "GatedRepoError" in names:
        raise gated(**facts) from None
    if names & {"RepositoryNotFoundError", "HFValidationError"}:
        raise not_found("authorization" in headers(spec), **facts) from None
    if "RevisionNotFoundError" in names:
        raise ModelNotFound(
            "hf:{id} has no revision {revision}.", hint="Check --revision.", revision=spec.revision, **facts
        ) from None
    if "DisabledRepoError" in names:
        raise ModelNotFound("{endpoint} has disabled hf:{id}.", hint="See {endpoint}/{id} for why.", **facts) from None
    absent = names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "IncompleteSnapshotError"}
    if absent or (isinstance(error, OSError) and not reason.startswith("HTTP")):
        raise NetworkError(
            "{endpoint} cannot be reached for hf:{id}: {reason}.",
            hint="Check the network, or name a mirror with --source URL or HF_ENDPOINT.",
            reason=reason,
            **facts,
        ) from None
    raise NetworkError(
        "{endpoint} did not give hf:{id}: {reason}.",
        hint="Try again later, or name a mirror with --source URL.",
        reason=reason,
        **facts,
    ) from None
