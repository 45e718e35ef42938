"""deepseek list"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import store_of
from deepseek_cli.manifest import Manifest
from deepseek_cli.output import Line, Result, Table

ARGUMENTS = ()


@dataclass(frozen=True, slots=True)
class ListSpec:
    pass


SPEC = ListSpec
EXAMPLES = ["deepseek list", "deepseek list -q"]


def run(call: Call) -> Result:
    store = store_of(call)
    entries = store.entries()
    rows = [_row(manifest) for _, manifest in entries] + [_unfinished(folder) for folder in store.unfinished()]
    data = {
        "home": store.home,
        "models": [dict(zip(("name", "kind", "bytes", "kl", "verified"), row, strict=True)) for row in rows],
    }
    lines: list[str | Line | Table] = [
        Table(["name", "kind", "MB", "KL", "verified"], [[n, k, round(b / 1e6), kl, v] for n, k, b, kl, v in rows])
    ]
    if not rows:
        lines = [Line("The store at {home} is empty.", home=store.home)]
    return Result(
        data, lines, quiet="\n".join(manifest.name for _, manifest in entries), next="" if rows else "deepseek pull MODEL"
    )


def _unfinished(folder: Path) -> tuple[str, str, int, None, None]:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return folder.name, "unfinished", size, None, None


def _row(manifest: Manifest) -> tuple[str, str, int, float | None, str | None]:
    report, verification = manifest.report or {}, manifest.verification or {}
    kl = report.get("kl")
    size = sum(f["bytes"] for f in manifest.files)
    return manifest.name, manifest.kind, size, None if kl is None else round(kl, 4), verification.get("level")
