"""Where a model's files can be asked for: the hub, ModelScope, mirrors of either; and how each kind writes its addresses."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from deepseek_cli.errors import UsageError

if TYPE_CHECKING:
    from deepseek_cli.sources.pull_spec import PullSpec

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Kind:
    scheme: str
    branch: str  # where no revision is named
    token: str  # the variable that holds the user's
    file: str  # its address


KINDS = {
    "hub": Kind("hf", "main", "HF_TOKEN", "{endpoint}/{id}/resolve/{revision}/{path}"),
    "modelscope": Kind(
        "ms", "master", "MODELSCOPE_API_TOKEN", "{endpoint}/api/v1/models/{id}/repo?Revision={revision}&FilePath={path}"
    ),
}
HOMES = {  # the origins that have names, and that the user's tokens are for
    "hf": ("hub", "HF_ENDPOINT", "https://huggingface.co"),
    "modelscope": ("modelscope", "MODELSCOPE_ENDPOINT", "https://modelscope.cn"),
}


@dataclass(frozen=True, slots=True)
class Origin:
    name: str  # as users write it: hf, modelscope, or an address
    kind: str  # key of KINDS
    endpoint: str

    @property
    def scheme(self) -> str:
        return KINDS[self.kind].scheme

    @property
    def branch(self) -> str:
        return KINDS[self.kind].branch

    @property
    def token(self) -> str:
        return KINDS[self.kind].token

    def address(self, hub_id: str, revision: str, path: str) -> str:
        facts = {"endpoint": self.endpoint, "id": hub_id, "revision": quote(revision, safe=""), "path": quote(path)}
        return KINDS[self.kind].file.format(**facts)

    def headers(self) -> dict[str, str]:
        """Of every request to this origin. A token is for the home it belongs to, never for a mirror."""
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        headers = build_hf_headers(token=None if self.name == "hf" else False, library_name="deepseek-cli")
        token = os.environ.get(self.token) if self.name == "modelscope" else None
        return headers | ({"authorization": f"Bearer {token}", "cookie": f"m_session_id={token}"} if token else {})


def origin_of(name: str) -> Origin:
    """Raises UsageError for what is neither a home's name nor an address."""
    if name in HOMES:
        kind, variable, default = HOMES[name]
        return Origin(name, kind, (os.environ.get(variable) or default).rstrip("/"))
    parts = urlsplit(name)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "{name!r} is no source of models.", hint="It is hf, modelscope, or an address such as https://hub.example.", name=name
        )
    at_modelscope = re.fullmatch(r"(.+\.)?modelscope\.(cn|ai)", parts.hostname)
    return Origin(name, "modelscope" if at_modelscope else "hub", name.rstrip("/"))


def origins_of(scheme: str, spec: PullSpec) -> tuple[Origin, ...]:
    """In the order to ask them: the source, then its mirrors."""
    first = "modelscope" if scheme == "ms" and spec.source == "hf" else spec.source
    found: dict[str, Origin] = {}
    for origin in map(origin_of, (first, *spec.mirror)):
        found.setdefault(origin.endpoint, origin)
    return tuple(found.values())


def revision_at(origin: Origin, asked: str | None, asked_of: Origin) -> str:
    """What `origin` calls the revision that was asked of another: commits and default branches differ between the kinds."""
    known_elsewhere = origin.kind != asked_of.kind and asked and (asked == asked_of.branch or COMMIT.fullmatch(asked))
    return origin.branch if known_elsewhere or not asked else asked
