"""deepseek search"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import store_of
from deepseek_cli.errors import AnswerIsNo
from deepseek_cli.i18n import t
from deepseek_cli.output import Result, Table
from deepseek_cli.spec import format_count, format_size, option

if TYPE_CHECKING:
    from deepseek_cli.profile.devices import Device
    from deepseek_cli.sources.catalogue import Entry

ARGUMENTS = ("words*",)


@dataclass(frozen=True, slots=True)
class SearchSpec:
    domain: str | None = option(None, help="only models for this, such as code or edge", metavar="NAME")
    fits: str | None = option(
        None, help="only what fits this machine, a device or a size, quantized if need be", metavar="[DEVICE|SIZE]", bare="here"
    )
    supported: bool = option(False, help="only what every command works with")


SPEC = SearchSpec
EXAMPLES = [
    "deepseek search",
    "deepseek search distill --fits",
    "deepseek search --domain code --fits 'RTX 4060'",
    "deepseek search maths --supported -q",
]


def run(call: Call) -> Result:
    from deepseek_cli.sources.catalogue import entries

    spec, words = call.spec, call.arguments["words"]
    every = entries()
    found = [e for e in every if _matches(e, words) and (not spec.supported or not e.obstacle())]
    if spec.domain:
        found = [e for e in _of_domain(spec.domain, every) if e in found]
    schemes = _fitting(found, spec.fits) if spec.fits else {}
    if spec.fits:
        found = [e for e in found if e.alias in schemes]
    if not found:
        raise _nothing(words, every)
    pulled = {manifest.source.get("ref") for _, manifest in store_of(call).entries() if not manifest.parent}
    models = [_row(entry, entry.ref in pulled, schemes.get(entry.alias)) for entry in found]
    more = [t("fits as")] if spec.fits else []
    table = Table(
        ["alias", "model", "for", "parameters", "size", "context", "licence", "state", *more],
        [[*_cells(row), *(t(row["fits_as"]) for _ in more)] for row in models],
    )
    return Result({"models": models}, [table], quiet="\n".join(e.alias for e in found), next=f"deepseek show {found[0].alias}")


def _matches(entry: Entry, words: Iterable[str]) -> bool:
    text = " ".join((entry.alias, entry.id, *entry.domains, entry.notes)).lower()
    return all(word.lower() in text for word in words)


def _of_domain(domain: str, every: Iterable[Entry]) -> list[Entry]:
    from deepseek_cli.settings import require_known

    require_known(domain, sorted({d for entry in every for d in entry.domains}), "--domain")
    return [entry for entry in every if domain in entry.domains]


def _fitting(found: Iterable[Entry], text: str) -> dict[str, str]:
    """By alias, the form of most bits in which it fits. What cannot be counted is left out: it cannot be said to fit."""
    from deepseek_cli.profile.devices import find_device

    device, known, schemes = find_device(text), dict[int, str](), dict[str, str]()
    for entry in found:
        if entry.config is None or entry.obstacle():
            continue
        if id(entry.config) not in known:  # which many of the largest share
            known[id(entry.config)] = _scheme(entry, device)
        if scheme := known[id(entry.config)]:
            schemes[entry.alias] = scheme
    return schemes


def _scheme(entry: Entry, device: Device) -> str:
    from deepseek_cli.profile.estimate import fit_on
    from deepseek_cli.profile.sketch import of_entry

    sketch = of_entry(entry)
    return fit_on(device, sketch).scheme if sketch else ""


def _nothing(words: Iterable[str], every: Iterable[Entry]) -> AnswerIsNo:
    from deepseek_cli.sources.catalogue import nearest

    names = {part for entry in every for part in (*entry.domains, *entry.alias.split("-"))}
    close = nearest(" ".join(words), names)
    hint = "deepseek search lists everything. What is not in it can be pulled as hf:ORG/NAME."
    if any(_matches(entry, words) for entry in every):
        hint = "Ask for less: leave an option out."
    elif close:
        hint = "Did you mean {close}?"
    return AnswerIsNo("Nothing in the catalogue is like that.", hint=hint, close=close)


def _row(entry: Entry, pulled: bool, scheme: str | None) -> dict[str, Any]:
    known = {name: value for name, value in asdict(entry).items() if name != "config"}
    obstacle = entry.obstacle() or None
    worked_out = {"about_bytes": entry.about_bytes, "supported": obstacle is None, "obstacle": obstacle}
    return {**known, **worked_out, "pulled": pulled, "fits_as": scheme}


def _cells(row: dict[str, Any]) -> list[Any]:
    state = "pulled" if row["pulled"] else "works" if row["supported"] else "not yet"
    size = row["about_bytes"] and f"{'' if row['bytes'] else '≈'}{format_size(row['about_bytes'])}"
    domains = ", ".join(row["domains"])
    return [row["alias"], row["id"], domains, format_count(row["parameters"]), size, row["context"], row["licence"], t(state)]
