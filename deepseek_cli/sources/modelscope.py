"""What ModelScope says about a repository. Every file has a sha256 there; a revision is a branch or a tag, never a commit."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from typing import Any

from deepseek_cli.errors import ModelNotFound, NetworkError
from deepseek_cli.sources.origins import Origin
from deepseek_cli.sources.wire import ANSWER_S, ASK_AGAIN_S, TRY_AGAIN, RemoteFile, gated, not_found

MOST_ENTRIES = 3000  # of one folder: what exceeds it is left out of the answer without a word
MOST_FOLDERS = 1000


def tree(origin: Origin, hub_id: str, revision: str) -> tuple[str, list[RemoteFile]]:
    """A name of the content, in a commit's place, and every file. Folders are asked for one by one: a large tree is cut off.

    Raises ModelNotFound, NetworkError.
    """
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    files, folders, asked = [], deque([""]), 0
    with httpx.Client(timeout=ANSWER_S, headers=origin.headers()) as client:
        while folders:
            folder, asked = folders.popleft(), asked + 1
            entries = _entries(client, httpx, origin, hub_id, revision, folder)
            if len(entries) >= MOST_ENTRIES or asked > MOST_FOLDERS:
                raise NetworkError(
                    "{endpoint} does not list all files of {id}.", hint="Use another source.", **_facts(origin, hub_id)
                )
            files += [_file(origin, hub_id, revision, entry) for entry in entries if entry.get("Type") != "tree"]
            folders += [str(entry.get("Path")) for entry in entries if entry.get("Type") == "tree"]
    lines = sorted(f"{file.path}\n{file.digest}\n" for file in files)
    return hashlib.sha1("".join(lines).encode(errors="replace")).hexdigest(), files


def _file(origin: Origin, hub_id: str, revision: str, entry: dict[str, Any]) -> RemoteFile:
    path = str(entry.get("Path"))
    return RemoteFile(path, entry.get("Size"), entry.get("Sha256"), origin.address(hub_id, revision, path))  # type: ignore[arg-type]


def _entries(client: Any, httpx: Any, origin: Origin, hub_id: str, revision: str, folder: str) -> list[dict[str, Any]]:
    url, facts = f"{origin.endpoint}/api/v1/models/{hub_id}/repo/files", _facts(origin, hub_id)
    question = {"Revision": revision, "Recursive": "False"} | ({"Root": folder} if folder else {})
    reason = ""
    for wait in (*ASK_AGAIN_S, None):
        try:
            answer = client.get(url, params=question)
        except httpx.TransportError as error:
            reason = type(error).__name__
        else:
            if answer.status_code == 200:
                return _read(answer, facts)
            reason = f"HTTP {answer.status_code}"
            if answer.status_code not in TRY_AGAIN:
                break
        if wait is not None:
            time.sleep(wait)
    if reason == "HTTP 403":
        raise gated(origin, hub_id)
    if reason == "HTTP 401":
        raise not_found("authorization" in client.headers, origin, hub_id)
    if reason == "HTTP 404":
        hint = "Check the name and --revision; for a private one set {token}."
        raise ModelNotFound("{endpoint} has no model {id} with a revision {revision}.", hint=hint, revision=revision, **facts)
    hint = "Try again later, or name a mirror with --source URL."
    raise NetworkError("{endpoint} did not give {scheme}:{id}: {reason}.", hint=hint, reason=reason, **facts)


def _read(answer: Any, facts: dict[str, str]) -> list[dict[str, Any]]:
    try:
        entries = answer.json()["Data"]["Files"]
        if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
            return entries
    except (ValueError, KeyError, TypeError):
        pass
    raise NetworkError("{endpoint} answers for {id} with what is no list of files.", hint="Use another source.", **facts)


def _facts(origin: Origin, hub_id: str) -> dict[str, str]:
    return {"endpoint": origin.endpoint, "scheme": origin.scheme, "id": hub_id, "token": origin.token}
