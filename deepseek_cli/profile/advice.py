"""What would take fewer bytes, largest first. The page has a sentence for each kind; `facts` fill it, `…_bytes` as sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deepseek_cli.profile.estimate import AS_IT_IS
from deepseek_cli.profile.whatif import cache_bytes

LEAST = 1 << 20  # less is no advice
DENSE = ("f32", "f16", "bf16")
SUGGESTED = ("int8", "int4-g32")  # schemes that are advised for weights

Advice = dict[str, Any]  # {"kind", "saves_bytes", "facts"}


def advise(document: Mapping[str, Any]) -> list[Advice]:
    """From a whole document; what it does not hold is not advised on. Savings overlap, and are not to be added up."""
    found = [*_weights(document), *_cache(document), *_memory(document)]
    return sorted((a for a in found if a["saves_bytes"] >= LEAST), key=lambda a: -a["saves_bytes"])


def _weights(document: Mapping[str, Any]) -> Iterator[Advice]:
    schemes = (document.get("what_if") or {}).get("schemes", {})
    for name in SUGGESTED:
        if name in schemes:
            size = schemes[name]
            yield _advice("scheme", schemes[AS_IT_IS] - size, scheme=name, size_bytes=size)
    stored = sum(row["bytes"] for row in document.get("weights") or [])
    loaded = _at_peak(document, "weights_memory")
    if document["model"].get("runtime") == "PyTorch":
        yield _advice("bundle", loaded - stored, stored_bytes=stored, loaded_bytes=loaded)
    for name in ("embedding", "head"):
        rows = [t for t in document.get("tensors") or [] if t["layer"] == name and t["form"] in DENSE]
        size, values = sum(t["bytes"] for t in rows), sum(t["parameters"] for t in rows)
        yield _advice(f"dense_{name}", size - values, size_bytes=size)


def _cache(document: Mapping[str, Any]) -> Iterator[Advice]:
    cache, model = document.get("kv"), document.get("what_if")
    if not cache or not model:
        return
    now = model["now"]["kv"]
    context, full = cache["context"], cache_bytes(model, cache["context"], now)
    for kind in ("fp16", "int8"):
        yield _advice("kv", full - cache_bytes(model, context, kind), kv=kind, context=context, now=now)


def _memory(document: Mapping[str, Any]) -> Iterator[Advice]:
    for part in ("prepacked", "arena_slack", "heap_free", "transient", "logits"):
        yield _advice(part, _at_peak(document, part))
    load = next((phase for phase in document.get("phases") or [] if phase["phase"] == "load"), None)
    if load and load["peak_bytes"]:
        yield _advice("load", load["peak_bytes"] - load["rss_bytes"], peak_bytes=load["peak_bytes"])


def _at_peak(document: Mapping[str, Any], part: str) -> int:
    peak = (document.get("moments") or [{"parts": []}])[0]
    return sum(p["bytes"] for p in peak["parts"] if p["part"] == part)


def _advice(kind: str, saves: int, **facts: Any) -> Advice:
    return {"kind": kind, "saves_bytes": saves, "facts": facts}
