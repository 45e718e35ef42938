"""What names repositories have, and which of their files may be written on any disk. A hub's answer is a claim by a stranger."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from deepseek_cli.errors import ModelCorrupt

HUB_ID = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}")
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.I)  # whatever their ending
REFUSED_CHARACTERS = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
MAX_SEGMENT_BYTES = 200  # below what disks take (255), as unfinished files have longer names
MAX_PATH_BYTES = 1000


def require_inside(paths: Iterable[str], ref: str) -> None:
    """Raises ModelCorrupt for a path that could leave the folder, on POSIX or on Windows. No honest tree holds one."""
    for path in paths:
        segments = re.split(r"[/\\]", path)
        if "\0" in path or {"", ".", ".."} & set(segments) or re.match(r"[A-Za-z]:", path):
            raise _refused(ref, path, "it could leave the folder")


def require_portable(paths: Iterable[str], ref: str) -> None:
    """Raises ModelCorrupt for names that some system cannot hold, or holds as one file where the repository has two."""
    seen: dict[str, str] = {}
    for path in paths:
        segments = path.split("/")
        if any(REFUSED_CHARACTERS.search(s) or s.endswith((".", " ")) or DEVICES.fullmatch(s) for s in segments):
            raise _refused(ref, path, "Windows cannot hold it")
        if len(path.encode()) > MAX_PATH_BYTES or any(len(s.encode()) > MAX_SEGMENT_BYTES for s in segments):
            raise _refused(ref, f"{path[:60]}…", "it is too long")
        for end in range(1, len(segments) + 1):
            part = "/".join(segments[:end])
            is_file, folded = end == len(segments), unicodedata.normalize("NFC", part).casefold()
            if folded in seen and (is_file or seen[folded] != f"{part}/"):
                raise _refused(ref, path, "another name differs from it only in case, or is the same")
            seen[folded] = part if is_file else f"{part}/"


def _refused(ref: str, path: str, reason: str) -> ModelCorrupt:
    return ModelCorrupt(
        "{ref} holds a file named {path!r}, which is refused: {reason}.",
        hint="Do not use this repository, or leave the file out with --exclude.",
        ref=ref,
        path=path,
        reason=reason,
    )
