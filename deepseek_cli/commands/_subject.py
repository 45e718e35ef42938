"""Which model a command works on: the one that is named, or the newest result of the project's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from deepseek_cli.commands._call import Call
from deepseek_cli.store import Store

if TYPE_CHECKING:
    from deepseek_cli.handle import Bundle, ModelHandle

Wants = Literal["source", "model", "any"]
FILTERS: dict[Wants, dict[str, object]] = {  # what the newest result has to be
    "source": {"kinds": ("model",), "quantized": False},
    "model": {"kinds": ("model",)},
    "any": {},
}


def store_of(call: Call) -> Store:
    return Store(call.settings.home)


def reference(call: Call, wants: Wants) -> str:
    """A reference to open: MODEL as typed, or what came last of `model = "…"` in deepseek.toml."""
    from deepseek_cli.sources import HUB_ID, canonical, locate
    from deepseek_cli.sources.catalogue import by_alias

    store = store_of(call)
    if call.arguments.get("model"):
        ref = str(call.arguments["model"])
        located = locate(ref, store)  # a name that is wrong fails before the engine is loaded
        if HUB_ID.fullmatch(ref) or by_alias(ref):
            call.reporter.note("{ref} is read as {path}.", ref=ref, path=located.path)
        return ref
    project = call.model
    newest = store.newest(canonical(project), **FILTERS[wants])  # type: ignore[arg-type]
    if not newest:
        return project
    call.reporter.note("Using {name}, the newest result of {model}.", name=newest[1].name, model=project)
    return str(newest[0])


def subject(call: Call, wants: Wants) -> ModelHandle | Bundle:
    """The opened model or bundle."""
    from deepseek_cli.handle import open_any

    return open_any(reference(call, wants), store_of(call))


def model_subject(call: Call, wants: Wants = "model") -> ModelHandle:
    """The opened model; a bundle is refused."""
    from deepseek_cli.handle import open_model

    return open_model(reference(call, wants), store_of(call))


def shown(call: Call, name: str, path: object) -> str:
    """What -q prints for a result: its name in the store, or its path where -o said one."""
    return str(path) if call.common.output else name
