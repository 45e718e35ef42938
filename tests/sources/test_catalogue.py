"""The catalogue's own facts, its checks, and what an alias means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepseek_cli.errors import DeepseekError, ModelNotFound
from deepseek_cli.manifest import read_manifest
from deepseek_cli.profile.devices import GB, find_device
from deepseek_cli.profile.estimate import estimate, kv_bytes
from deepseek_cli.profile.sketch import of_entry, open_sketch, total
from deepseek_cli.sources import canonical, locate, names_a_model
from deepseek_cli.sources.catalogue import FILE, SCHEMA, Entry, by_alias, by_ref, entries, nearest, read_catalogue
from deepseek_cli.sources.embedded import EMBEDDED
from deepseek_cli.sources.pull import pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store
from tests.sources import loopback_hub
from tests.sources.loopback_hub import Hub
from tests.toys import DEPLOYABLE, make_toy

DOMAINS = {
    "chat",
    "code",
    "maths",
    "reasoning",
    "multilingual",
    "embedding",
    "long-context",
    "edge",
    "vision-language",
    "drafting",
}
KNOWN = [entry for entry in entries() if entry.config]
R1, V2_LITE = "r1-distill-1.5b", "v2-lite"


def ids(entry: Entry) -> str:
    return entry.alias


# what it holds


def test_it_holds_every_domain_and_most_are_pinned() -> None:
    every = entries()
    assert len(every) >= 40
    assert {domain for entry in every for domain in entry.domains} >= DOMAINS
    works = {domain for entry in every if not entry.obstacle() for domain in entry.domains}
    assert len(works & DOMAINS) >= 5 and "embedding" not in works
    assert sum(bool(entry.revision and entry.about_bytes and entry.licence) for entry in every) >= 40
    assert not {entry.alias for entry in every} & set(EMBEDDED)


@pytest.mark.parametrize("entry", KNOWN, ids=ids)
def test_a_known_config_is_estimated(entry: Entry) -> None:
    sketch = of_entry(entry)
    assert sketch and sketch.parameters == entry.parameters
    assert sketch.config.context == entry.context
    found = estimate(sketch, bandwidth=GB)
    assert found["total_bytes"] > found["weights_bytes"] > 0
    assert entry.about_bytes == pytest.approx(total(sketch.weights), rel=0.5)


@pytest.mark.parametrize("entry", [e for e in KNOWN if re.search(r"[\d.]+[bm]\b", e.id, re.I)], ids=ids)
def test_it_is_as_large_as_its_name_says(entry: Entry) -> None:
    number, unit = re.findall(r"([\d.]+)([bm])\b", entry.id.lower())[-1]
    assert entry.parameters == pytest.approx(float(number) * {"b": 1e9, "m": 1e6}[unit], rel=0.25)


@pytest.mark.parametrize("entry", [e for e in KNOWN if e.bytes and "once more" not in e.notes], ids=ids)
def test_files_hold_what_the_config_says(entry: Entry) -> None:
    """And a little more: their headers, and the drafting layer of DeepSeek-V3, which is 15.4 GB."""
    sketch = of_entry(entry)
    assert sketch and entry.bytes
    more = entry.bytes - total(sketch.weights)
    assert more == pytest.approx(15.4 * GB, rel=0.01) if sketch.config.family == "deepseek_v3" else 0 <= more < 1_000_000


@pytest.mark.parametrize(
    ("alias", "parameters", "weights", "token"),  # as published
    [
        (R1, 1_777_088_000, 3.55 * GB, 28_672),
        (V2_LITE, 15_706_484_224, (8.59 * 3 + 5.64) * GB, 31_104),
        ("v3", 671_026_419_200, (688.6 - 15.4) * GB, 70_272),
    ],
)
def test_published_sizes(tmp_path: Path, alias: str, parameters: int, weights: float, token: int) -> None:
    sketch = open_sketch(alias, Store(tmp_path), offline=True)
    assert (sketch.parameters, kv_bytes(sketch, "fp16")) == (parameters, token)
    assert total(sketch.weights) == pytest.approx(weights, rel=0.002)


# its checks

ENTRY = """
[[model]]
alias = "toy"
id = "org/toy"
domains = ["chat"]
architecture = "llama"
licence = "mit"
parameters = 1000
"""


def catalogue(folder: Path, text: str, schema: str = SCHEMA) -> Path:
    file = folder / "catalogue.toml"
    file.write_text(f'schema = "{schema}"\n{text}', encoding="utf-8")
    return file


def test_the_least_an_entry_says(tmp_path: Path) -> None:
    (entry,) = read_catalogue(catalogue(tmp_path, ENTRY))
    assert (entry.ref, entry.weights, entry.revision, entry.about_bytes, entry.obstacle()) == (
        "hf:org/toy",
        "safetensors",
        None,
        None,
        "",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ENTRY.replace('"toy"', '"Toy Model"'), "alias must be letters in lower case"),
        (ENTRY.replace("org/toy", "toy"), "id must be of the form ORG/NAME"),
        (ENTRY.replace('["chat"]', "[]"), "domains must be a list of words"),
        (ENTRY.replace("1000", "0"), "parameters must be an integer from 1"),
        (ENTRY.replace('licence = "mit"\n', ""), "lacks the field licence"),
        (f'{ENTRY}revision = "main"', "revision must be a commit of 40 digits"),
        (f'{ENTRY}released = "2025"', "released must be a month"),
        (f'{ENTRY}weights = "gguf"', "weights gguf is not supported"),
        (f"{ENTRY}active_parameters = 2000", "active_parameters must be an integer from 1 to 1000"),
        (f"{ENTRY}byte = 1", "'byte' is unknown"),
        (f'{ENTRY}config = "x"', "'x' is unknown"),
        (f'{ENTRY}config = "x"\n[config.x]\nmodel_type = "qwen2"', "architecture must be the model_type of its config, 'qwen2'"),
    ],
)
def test_what_is_wrong_is_named_with_its_entry(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DeepseekError, match=re.escape(says)) as wrong:
        read_catalogue(catalogue(tmp_path, text))
    assert "catalogue.toml: " in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "schema", "says"),
    [
        (ENTRY, "deepseek.catalogue/2", "its schema is 'deepseek.catalogue/2'"),
        (ENTRY + ENTRY.replace("org/toy", "org/other"), SCHEMA, "alias 'toy' stands twice"),
        (ENTRY + ENTRY.replace('"toy"', '"other"'), SCHEMA, "id 'org/toy' stands twice"),
        ("=", SCHEMA, "it cannot be read"),
    ],
)
def test_a_catalogue_that_is_none(tmp_path: Path, text: str, schema: str, says: str) -> None:
    with pytest.raises(DeepseekError, match=says):
        read_catalogue(catalogue(tmp_path, text, schema))


@pytest.mark.parametrize(
    ("alias", "obstacle"),
    [("v4-flash", "architecture"), ("qwen3-embedding-0.6b", "vectors"), ("llm-7b", "pickles"), (R1, "")],
)
def test_whether_it_works_is_worked_out(alias: str, obstacle: str) -> None:
    entry = by_alias(alias)
    assert entry and obstacle in entry.obstacle() and bool(entry.obstacle()) == bool(obstacle)


# what an alias means


def test_an_alias_is_its_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ref = "hf:deepseek-ai/DeepSeek-V2-Lite"
    assert canonical(V2_LITE) == ref and names_a_model(V2_LITE, Store(tmp_path))
    assert by_ref(ref) == by_ref("deepseek-ai/DeepSeek-V2-Lite") == by_alias(V2_LITE)
    with pytest.raises(ModelNotFound, match=f"{ref} is not on this machine. Fetch it: deepseek pull {V2_LITE}"):
        locate(V2_LITE, Store(tmp_path))


def test_a_path_and_a_stored_name_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "home")
    make_toy(tmp_path / "elsewhere" / R1, tokenizer=False, **DEPLOYABLE)
    pull(f"elsewhere/{R1}", PullSpec(), store)
    assert locate(R1, store).path == tmp_path / "elsewhere" / R1
    make_toy(tmp_path / R1, tokenizer=False, **DEPLOYABLE)
    assert (locate(R1, store).path, canonical(R1)) == (Path(R1), R1)


@pytest.mark.parametrize(
    ("text", "names", "close"), [("r1-distil-1.5b", (), R1), ("My-Toi", ("My-Toy",), "My-Toy"), ("xyzzy", (), "")]
)
def test_the_nearest_name(text: str, names: tuple[str, ...], close: str) -> None:
    assert nearest(text, names) == close


@pytest.mark.parametrize(
    ("text", "name"),
    [("rtx 4090", "RTX 4090, 24 GB"), ("8GB", "8GB"), ("raspberry", "Raspberry Pi 5, 8 GB"), ("here", "this machine")],
)
def test_a_device_by_part_of_its_name_or_a_size(text: str, name: str) -> None:
    device = find_device(text)
    assert device.name == name
    assert text != "8GB" or device.usable_bytes == 8 * GB


@pytest.mark.parametrize(("text", "says"), [("RTX", "could be any of RTX 4060"), ("toaster", "neither a device nor a size")])
def test_no_such_device(text: str, says: str) -> None:
    with pytest.raises(DeepseekError, match=says):
        find_device(text)


def test_it_is_pulled_at_its_commit(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = by_alias(R1)
    assert entry and entry.revision
    monkeypatch.setattr(loopback_hub, "ID", entry.id)
    hub.commit, hub.revisions = entry.revision, ()  # a branch would not be found
    done = pull(R1, PullSpec(), store)
    manifest = read_manifest(done.path)
    assert manifest and manifest.source == {"ref": entry.ref, "revision": entry.revision}
    assert locate(R1, store).path == locate(entry.ref, store).path == (done.handle and done.handle.root)
    assert pull(R1, PullSpec(), store, offline=True).unchanged
    with pytest.raises(ModelNotFound, match="no revision main"):
        pull(R1, PullSpec(revision="main"), store)


def test_without_a_commit_it_is_the_newest(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = by_alias("coder-6.7b-base")
    assert entry and entry.revision is None
    monkeypatch.setattr(loopback_hub, "ID", entry.id)
    manifest = read_manifest(pull(entry.alias, PullSpec(), store).path)
    assert manifest and manifest.source == {"ref": entry.ref, "revision": hub.commit}


def test_the_file_says_where_it_comes_from() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert "config.json" in text.splitlines()[0] and re.search(r'^updated = "20\d\d-\d\d-\d\d"$', text, re.M)
