"""A model that is not on this machine, as `show` describes it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import store_of
from deepseek_cli.errors import ModelNotFound, ModelUnsupported
from deepseek_cli.i18n import t
from deepseek_cli.output import Line, Result, Table
from deepseek_cli.spec import format_count, format_size

if TYPE_CHECKING:
    from deepseek_cli.profile.sketch import Sketch
    from deepseek_cli.sources.catalogue import Entry

ANY_MODEL = ("search", "show")  # commands that need not know its architecture
COMMANDS = ("pull", "quantize", "compress", "deploy", "run", "bench", "profile", "eval")


def describe(call: Call, missing: ModelNotFound) -> Result:
    """What the catalogue and its config say of a model. Raises `missing` for a name that is neither there nor on a hub."""
    from deepseek_cli.sources import canonical
    from deepseek_cli.sources.catalogue import by_ref

    ref = call.model
    entry, hub_ref = by_ref(ref), canonical(ref)
    if entry is None and not hub_ref.startswith("hf:"):
        raise missing
    obstacle = entry.obstacle() if entry else ""
    sketch = _sketch(call, ref, entry)
    commands = [*(ANY_MODEL if obstacle else COMMANDS), *(["profile --estimate"] if obstacle and sketch else [])]
    counted = _counted(sketch) if sketch else {}
    data = {
        "name": hub_ref.removeprefix("hf:").replace("/", "--"),
        "kind": "catalogue" if entry else "hub",
        "path": None,
        "catalogue": {k: v for k, v in dataclasses.asdict(entry).items() if k != "config"} if entry else None,
        **counted,
        "config": plain(dataclasses.asdict(sketch.config)) if sketch else None,
        "commands": commands,
        "obstacle": obstacle or None,
    }
    facts = {"model": hub_ref, **(_known(entry) if entry else {}), **_readable(counted), "commands": ", ".join(commands)}
    lines: list[str | Line | Table] = [Table(["field", "value"], [[k, str(v)] for k, v in facts.items() if v is not None])]
    word = "No command works with it: {obstacle}." if obstacle else "It is not on this machine."
    return Result(
        data, [*lines, Line(word, obstacle=t(obstacle))], quiet=hub_ref, next="" if obstacle else f"deepseek pull {ref}"
    )


def _sketch(call: Call, ref: str, entry: Entry | None) -> Sketch | None:
    """None where its architecture is not supported, or an entry lacks its config: no hub is asked for an entry."""
    from deepseek_cli.profile.sketch import of_entry, open_sketch

    if entry is None:
        return open_sketch(ref, store_of(call), offline=call.common.offline)
    try:
        return of_entry(entry)
    except ModelUnsupported:
        return None


def _known(entry: Entry) -> dict[str, Any]:
    return {
        "alias": entry.alias,
        "revision": entry.revision or t("not pinned"),
        "for": ", ".join(entry.domains),
        "architecture": entry.architecture,
        "parameters": format_count(entry.parameters),
        "active": entry.active_parameters and format_count(entry.active_parameters),
        "files": entry.bytes and format_size(entry.bytes),
        "licence": entry.licence,
        "context": entry.context,
        "released": entry.released,
        "notes": entry.notes or None,
    }


def _counted(sketch: Sketch) -> dict[str, Any]:
    from deepseek_cli.profile.estimate import kv_bytes
    from deepseek_cli.profile.sketch import total

    return {
        "architecture": sketch.architecture.name,
        "parameters": sketch.parameters,
        "bytes": total(sketch.weights),
        "kv_bytes_per_token": kv_bytes(sketch, "fp16"),
        **shape(sketch.config),
    }


def _readable(counted: dict[str, Any]) -> dict[str, Any]:
    shown = {"parameters": format_count, "bytes": format_size, "kv_bytes_per_token": format_size}
    return {name: shown[name](value) if name in shown else value for name, value in counted.items()}


def shape(config: Any) -> dict[str, Any]:
    found = {"layers": config.layers, "hidden": config.hidden, "heads": config.heads, "kv_heads": config.kv_heads}
    if latent := getattr(config, "latent", None):
        found |= {"latent": latent.rank, "rotated": latent.rope_dim}
    if gate := getattr(config, "gate", None):
        found |= {"experts": gate.experts, "experts_per_token": gate.top_k}
    return found | {"vocabulary": config.vocabulary, "context": config.context}


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON holds it, without its tables of rotary frequencies."""
    nested = {k: plain(v) if isinstance(v, dict) else v for k, v in config.items() if k != "rope"}
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in nested.items()}
