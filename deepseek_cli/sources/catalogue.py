"""Models that have a short name, with what is known of each before anything is fetched: data/catalogue.toml, read and checked."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_cli.architectures import find_architecture
from deepseek_cli.errors import ModelCorrupt, ModelUnsupported
from deepseek_cli.fields import Fields
from deepseek_cli.settings import require_known
from deepseek_cli.sources.names import HUB_ID

if TYPE_CHECKING:
    from deepseek_cli.reporter import Reporter
    from deepseek_cli.sources.pull_spec import PullSpec

FILE = Path(__file__).parents[1] / "data" / "catalogue.toml"
SCHEMA = "deepseek.catalogue/1"
ALIAS = re.compile(r"[a-z0-9][a-z0-9.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
WEIGHTS = ("safetensors", "pickle")
OUTPUTS = ("text", "vectors")
MOST = 1 << 50
OBSTACLES = {
    "architecture": "its architecture is not supported yet",
    "vectors": "it gives vectors, and only text is supported yet",
    "pickle": "its weights are pickles, which are refused",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """`config` holds the fields of config.json that say what is computed and stored; None where they are not known."""

    alias: str
    id: str
    domains: tuple[str, ...]
    architecture: str  # config.json's model_type
    licence: str
    parameters: int
    active_parameters: int | None  # of a token; None where it is all of them
    bytes: int | None
    context: int | None
    released: str | None
    revision: str | None
    weights: str
    output: str
    notes: str
    config: Mapping[str, Any] | None

    @property
    def ref(self) -> str:
        return f"hf:{self.id}"

    @property
    def about_bytes(self) -> int | None:
        """`bytes`, or else what its parameters take as its config says they are stored: one byte in FP8, two in bfloat16."""
        if self.bytes or not self.config:
            return self.bytes
        return self.parameters * (1 if "quantization_config" in self.config else 2)

    def obstacle(self) -> str:
        """Why no command works with it, one of OBSTACLES; "" where they do."""
        if not _is_supported(self.architecture):
            return OBSTACLES["architecture"]
        return OBSTACLES.get(self.output) or OBSTACLES.get(self.weights, "")


FIELDS = tuple(Entry.__dataclass_fields__)


@cache
def _is_supported(architecture: str) -> bool:
    try:
        find_architecture(architecture)
    except ModelUnsupported:
        return False
    return True


@cache
def entries() -> tuple[Entry, ...]:
    return read_catalogue(FILE)


def by_alias(text: str) -> Entry | None:
    if not ALIAS.fullmatch(text):  # most names of models are spared the reading
        return None
    return next((entry for entry in entries() if entry.alias == text), None)


def by_ref(ref: str) -> Entry | None:
    """The entry of an alias, of `hf:ORG/NAME` or of `ORG/NAME`."""
    return by_alias(ref) or next((entry for entry in entries() if entry.id == ref.removeprefix("hf:")), None)


def pinned(ref: str, spec: PullSpec, reporter: Reporter) -> PullSpec:
    """An alias means the commit that its entry names, unless the user names another, or another hub."""
    entry = None if Path(ref).expanduser().exists() else by_alias(ref)
    if entry is None:
        return spec
    if spec.revision or spec.source != "hf" or not entry.revision:
        reporter.note("{alias} is {ref}, not pinned to a commit.", alias=ref, ref=entry.ref)
        return spec
    reporter.note("{alias} is {ref} at {revision}.", alias=ref, ref=entry.ref, revision=entry.revision)
    return dataclasses.replace(spec, revision=entry.revision)


def nearest(text: str, names: Iterable[str] = ()) -> str:
    """Of `names` and the aliases, the one that was probably meant; "" where none is near."""
    known = {name.lower(): name for name in (*(entry.alias for entry in entries()), *names)}
    close = difflib.get_close_matches(text.lower(), known, 1)
    return known[close[0]] if close else ""


def read_catalogue(file: Path) -> tuple[Entry, ...]:
    """Raises ModelCorrupt or UsageError for what no catalogue holds, naming the entry and its field."""
    import tomli

    try:
        document = tomli.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise wrong(file, f"it cannot be read: {error}") from None
    if document.get("schema") != SCHEMA:
        raise wrong(file, f"its schema is {document.get('schema')!r}, not {SCHEMA!r}")
    configs, tables = document.get("config", {}), document.get("model", [])
    found = tuple(_entry(table, configs, file) for table in tables)
    for kind in ("alias", "id"):
        values = [getattr(entry, kind) for entry in found]
        if twice := {value for value in values if values.count(value) > 1}:
            raise wrong(file, f"{kind} {sorted(twice)[0]!r} stands twice")
    return found


def _entry(table: Mapping[str, Any], configs: Mapping[str, Any], file: Path) -> Entry:
    place = file.with_name(f"{file.name}: {table.get('alias', '?')}")
    for name in table:
        require_known(name, FIELDS, place.name)
    fields = Fields(table, place)
    domains = table.get("domains")
    if not isinstance(domains, list) or not domains or not all(isinstance(d, str) and ALIAS.fullmatch(d) for d in domains):
        raise fields.wrong("domains", "a list of words")
    config = None
    if "config" in table:
        name = fields.text("config")
        require_known(name, configs, f"{place.name}: config")
        config = configs[name]
        if config.get("model_type") != table.get("architecture"):
            raise fields.wrong("architecture", f"the model_type of its config, {config.get('model_type')!r}")
    parameters = fields.integer("parameters", high=MOST)
    return Entry(
        alias=_matching(fields, "alias", ALIAS, "letters in lower case, digits, dots and dashes"),
        id=_matching(fields, "id", HUB_ID, "of the form ORG/NAME"),
        domains=tuple(domains),
        architecture=fields.text("architecture"),
        licence=fields.text("licence"),
        parameters=parameters,
        active_parameters=fields.integer("active_parameters", high=parameters) if "active_parameters" in table else None,
        bytes=fields.integer("bytes", high=MOST) if "bytes" in table else None,
        context=fields.integer("context") if "context" in table else None,
        released=_matching(fields, "released", MONTH, "a month, YYYY-MM") if "released" in table else None,
        revision=_matching(fields, "revision", COMMIT, "a commit of 40 digits") if "revision" in table else None,
        weights=fields.choice("weights", WEIGHTS, "safetensors"),
        output=fields.choice("output", OUTPUTS, "text"),
        notes=fields.text("notes", ""),
        config=config,
    )


def _matching(fields: Fields, name: str, pattern: re.Pattern[str], wanted: str) -> str:
    text = fields.text(name)
    if not pattern.fullmatch(text):
        raise fields.wrong(name, wanted)
    return text


def wrong(file: Path, reason: str) -> ModelCorrupt:
    return ModelCorrupt("{file} is damaged: {reason}.", hint="Install deepseek-cli again.", file=file, reason=reason)
