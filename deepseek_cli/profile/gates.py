"""What a report is held against: a largest peak, and an earlier report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.errors import UsageError
from deepseek_cli.profile.spec import ProfileSpec

SCHEMAS = ("deepseek.profile/2", "deepseek.profile/1")  # what is read of a baseline is the same in both


@dataclass(frozen=True, slots=True)
class Gate:
    """One comparison of the peak; bytes."""

    name: str  # "max-peak" or "max-growth"
    peak_bytes: int
    limit_bytes: int
    passed: bool


def gates(document: dict[str, Any], spec: ProfileSpec, baseline: dict[str, Any] | None) -> list[Gate]:
    """The gates that `spec` asks for."""
    limits: dict[str, int] = {"max-peak": spec.max_peak} if spec.max_peak else {}
    if baseline and spec.growth is not None:
        limits["max-growth"] = int(baseline["peak"]["bytes"] * (1 + spec.growth))
    peak = document["peak"]["bytes"]
    return [Gate(name, peak, limit, passed=peak <= limit) for name, limit in limits.items()]


def read_baseline(path: Path) -> dict[str, Any]:
    """An earlier report, from --save or --json.

    Raises UsageError where the file is not one, or is of another schema, or of a run that failed.
    """
    document = read_document(path, SCHEMAS, SAVE)
    if document.get("failed"):
        raise UsageError("{file} is of a run that failed.", hint=SAVE, file=path)
    if not is_whole(document):
        raise UsageError("{file} is damaged: its peak or its parts are missing.", hint=SAVE, file=path)
    return {key: document.get(key) for key in ("schema", "model", "run", "peak", "moments", "timeline")}


def read_document(path: Path, schemas: Sequence[str], hint: str) -> dict[str, Any]:
    """A saved JSON document of one of `schemas`, the newest first. Raises UsageError, with `hint`, for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise UsageError("{file} cannot be read: {reason}.", hint=hint, file=path, reason=reason) from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema not in schemas:
        raise UsageError(
            "{file} has the schema {schema}, not {known}.", hint=hint, file=path, schema=schema or "none", known=schemas[0]
        )
    found: dict[str, Any] = document
    return found


SAVE = "Make one with: deepseek profile MODEL --save baseline.json"


def is_whole(document: dict[str, Any]) -> bool:
    """Whether all that is read of a baseline is there, of its type."""
    try:
        parts = [part for moment in document["moments"] for part in moment["parts"]]
        texts = [document["model"]["name"], document["run"]["when"], *(part["part"] for part in parts)]
        sizes = [
            document["peak"]["bytes"],
            *(moment["bytes"] for moment in document["moments"]),
            *(part["bytes"] for part in parts),
        ]
    except (KeyError, TypeError):
        return False
    return (
        all(isinstance(text, str) for text in texts) and all(type(size) is int for size in sizes) and bool(parts) and sizes[0] > 0
    )
