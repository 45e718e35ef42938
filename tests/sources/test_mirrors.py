"""Several origins: ModelScope beside the hub, and mirrors that go on where another stopped."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load, save

from deepseek_cli.errors import ModelCorrupt, ModelNotFound, NetworkError, UsageError
from deepseek_cli.manifest import read_manifest
from deepseek_cli.sources import hub as hub_module
from deepseek_cli.sources import modelscope, wire
from deepseek_cli.sources.origins import origin_of, origins_of
from deepseek_cli.sources.pull import pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store
from tests.conftest import Outcome
from tests.sources.loopback_hub import COMMIT, ID, TOKEN, Hub, serving
from tests.sources.test_download import Listener, same

Cli = Callable[..., Outcome]
WEIGHTS = "model.safetensors"
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = functools.partial(wire.Patience, silent_s=0.4, window_s=0.2, low_bytes=500, first_wait_s=0.01, longest_wait_s=0.05)
    monkeypatch.setattr(wire, "Patience", quick)
    for module in (hub_module, modelscope):
        monkeypatch.setattr(module, "ASK_AGAIN_S", (0, 0))


@pytest.fixture
def other(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A second one with the same files, which is ModelScope when it is asked as that."""
    with serving(Hub(dict(hub.files))) as other:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", other.url)
        yield other


class Notes(Listener):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def note(self, message: str, **facts: object) -> None:
        self.said.append(message.format(**facts))


# ModelScope


def test_a_model_of_modelscope(other: Hub, hub: Hub, store: Store, cache: Path) -> None:
    done = pull("ms:org/name", PullSpec(), store)
    assert same(done, other) and hub.asked == []
    manifest = read_manifest(done.path)
    assert manifest and manifest.source["ref"] == "ms:org/name" and manifest.source["branch"] == "master"
    assert (cache / "models--org--name" / "refs" / "master").read_text() == manifest.source["revision"]
    assert not (cache / "models--org--name" / "refs" / "main").exists()  # which is the hub's to say
    assert pull("ms:org/name", PullSpec(), store).unchanged
    assert pull("ms:org/name", PullSpec(), store, offline=True).unchanged
    other.files["generation_config.json"] += b" "
    assert not pull("ms:org/name", PullSpec(), store).unchanged


def test_the_hubs_model_from_modelscope(other: Hub, hub: Hub, cli: Cli) -> None:
    assert cli("pull", "hf:org/name", "--source", "modelscope").code == 0
    assert hub.asked == [] and other.sent() == len(other.files[WEIGHTS])


def test_a_tag_and_folders_of_modelscope(other: Hub, store: Store) -> None:
    other.files |= {"sub/deep/extra.json": b"{}", "sub/code.py": b""}
    done = pull("ms:org/name", PullSpec(revision="v1", include=("sub/*",)), store)
    assert done.handle and (done.handle.root / "sub/deep/extra.json").read_bytes() == b"{}"
    assert not (done.handle.root / "sub/code.py").exists()
    with pytest.raises(ModelNotFound, match=r"no model org/name with a revision v9.* --revision"):
        pull("ms:org/name", PullSpec(revision="v9"), store)


def test_modelscopes_token_is_for_modelscope(other: Hub, hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other.private = True
    monkeypatch.setenv("HF_TOKEN", "hf_" + "another")
    with pytest.raises(ModelNotFound, match=r"ms:org/name is gated.* set MODELSCOPE_API_TOKEN"):
        pull("ms:org/name", PullSpec(), store)
    assert not any("hf_another" in str(a.headers) for a in other.asked)
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
    assert same(pull("ms:org/name", PullSpec(), store), other)
    assert not any(TOKEN in str(a.headers) for a in other.asked if a.origin == "cdn")


@pytest.mark.parametrize("answer", [{"Data": None}, [], {"Data": {"Files": [1]}}, {"Data": {"Files": "x"}}])
def test_a_modelscope_that_talks_nonsense(other: Hub, store: Store, monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    monkeypatch.setattr("tests.sources.loopback_hub.json.dumps", lambda _: json.JSONEncoder().encode(answer))
    with pytest.raises(NetworkError, match="with what is no list of files"):
        pull("ms:org/name", PullSpec(), store)


@pytest.mark.parametrize(("field", "value"), [("Size", -1), ("Size", None), ("Sha256", "x"), ("Sha256", None), ("Path", "../x")])
def test_a_modelscope_that_lies(other: Hub, store: Store, field: str, value: object) -> None:
    other.tree = {"config.json": {field: value}}
    with pytest.raises(ModelCorrupt, match=r"ms:org/name(: the (size|digest) of config\.json cannot be| holds a file named)"):
        pull("ms:org/name", PullSpec(), store)


def test_a_repair_from_modelscope(other: Hub, cli: Cli, cache: Path) -> None:
    assert cli("pull", "ms:org/name").code == 0
    blob = (next(cache.glob("models--*/snapshots/*")) / "config.json").resolve()
    blob.write_bytes(b"{}")
    assert cli("verify", "ms:org/name", "--repair").code == 0
    assert blob.read_bytes() == other.files["config.json"]
    blob.write_bytes(b"{}")
    other.files["config.json"] += b" "
    done = cli("verify", "ms:org/name", "--repair")
    assert done.code == 3 and "has other files by now" in done.err


# mirrors


@pytest.mark.parametrize("kind", ["hub", "modelscope"])
def test_the_rest_comes_from_a_mirror(hub: Hub, other: Hub, store: Store, kind: str) -> None:
    name, notes = (other.url if kind == "hub" else "modelscope"), Notes()
    hub.cdn_answers = deque([(503, {})] * 1000)
    done = pull(ID, PullSpec(mirror=(name,)), store, reporter=notes)
    assert same(done, hub) and other.sent() == len(hub.files[WEIGHTS])
    assert [note for note in notes.said if f"Going on with {other.url}" in note] == [
        f"{hub.url} fails: HTTP 503. Going on with {other.url}."
    ]
    manifest = read_manifest(done.path)
    assert manifest and manifest.source == {"ref": "hf:org/name", "revision": COMMIT}


def test_a_range_goes_on_at_the_byte_where_it_stopped(hub: Hub, other: Hub, store: Store) -> None:
    hub.cut, hub.corrupt_once = 1.0, set()  # every answer breaks off
    hub.random, notes = random.Random(5), Notes()
    assert same(pull(ID, PullSpec(mirror=(other.url,), workers=2), store, reporter=notes), hub)
    assert hub.sent() + other.sent() == len(hub.files[WEIGHTS])


def test_a_listing_comes_from_a_mirror(other: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", DEAD)
    done = pull(ID, PullSpec(mirror=("modelscope",)), store)
    assert same(done, other)
    manifest = read_manifest(done.path)
    assert manifest and manifest.source["endpoint"] == "modelscope"
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9 did not give hf:org/name"):  # ModelScope knows no commit of the hub's
        pull(ID, PullSpec(mirror=("modelscope",), revision=COMMIT), store)


def test_deploy_fetches_from_the_settings_mirror(other: Hub, hub: Hub, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", DEAD)
    Path("deepseek.toml").write_text(f'[pull]\nmirror = ["{other.url}"]\n')
    done = cli("deploy", "hf:org/name", "--pull", "--target", "cpu", "--verify", "structure", "--threads", "1")
    assert done.code == 0
    assert other.sent() == len(other.files[WEIGHTS])


def test_a_mirror_with_other_content_is_named_and_left_out(hub: Hub, other: Hub, store: Store) -> None:
    other.files[WEIGHTS] = bytes(len(hub.files[WEIGHTS]))
    hub.cdn_answers, notes = deque([(503, {})] * 5), Notes()
    assert same(pull(ID, PullSpec(mirror=(other.url,), workers=2), store, reporter=notes), hub)
    assert other.sent() == 0
    assert f"{other.url} does not have {WEIGHTS} as it should be: it is left out for this file." in notes.said


def test_a_mirror_that_serves_other_bytes_than_it_lists(hub: Hub, other: Hub, store: Store) -> None:
    weights = hub.files[WEIGHTS]
    other.files[WEIGHTS] = weights[:-1] + bytes([weights[-1] ^ 1])
    other.tree = {WEIGHTS: hub.entry(WEIGHTS)}
    hub.cdn_answers, notes = deque([(503, {})] * 4), Notes()
    assert same(pull(ID, PullSpec(mirror=(other.url,), workers=2), store, reporter=notes), hub)
    assert f"{other.url} does not have {WEIGHTS} as it should be: it is left out for this file." in notes.said


def test_a_mirror_that_is_not_there_changes_nothing(hub: Hub, store: Store) -> None:
    assert same(pull(ID, PullSpec(mirror=(DEAD,)), store), hub)


def test_when_no_origin_gives_more_the_first_one_is_named(hub: Hub, store: Store) -> None:
    hub.cdn_answers = deque([(503, {})] * 1000)
    with pytest.raises(NetworkError, match=rf"{hub.url} gives no more of model\.safetensors: HTTP 503"):
        pull(ID, PullSpec(mirror=(DEAD,), workers=2), store)


def test_no_mirror_sees_a_token(hub: Hub, other: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.private, hub.cdn_answers = True, deque([(503, {})] * 1000)
    assert same(pull(ID, PullSpec(mirror=(other.url,)), store), hub)
    assert other.sent() and not any(TOKEN in str(asked.headers) for asked in other.asked)


def test_mirrors_stand_in_the_settings(hub: Hub, other: Hub, cli: Cli) -> None:
    hub.cdn_answers = deque([(503, {})] * 1000)
    Path("deepseek.toml").write_text(f'[pull]\nmirror = ["{DEAD}", "modelscope", "{other.url}"]\n')
    assert cli("pull", "hf:org/name").code == 0
    assert other.sent() == len(hub.files[WEIGHTS])


def test_the_order_of_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELSCOPE_ENDPOINT", raising=False)
    spec = PullSpec(mirror=("https://hub.example/", "hf", "modelscope", "https://www.modelscope.ai", "https://hub.example"))
    found = [(origin.endpoint, origin.kind) for origin in origins_of("hf", spec)]
    assert found == [
        ("https://huggingface.co", "hub"),
        ("https://hub.example", "hub"),
        ("https://modelscope.cn", "modelscope"),
        ("https://www.modelscope.ai", "modelscope"),
    ]
    assert [o.name for o in origins_of("ms", PullSpec(mirror=("hf",)))] == ["modelscope", "hf"]


@pytest.mark.parametrize("name", ["huggingface", "ftp://x", "http://", "", "modelscope.cn"])
def test_what_is_no_source(name: str, cli: Cli) -> None:
    with pytest.raises(UsageError, match="is no source of models"):
        origin_of(name)


# load


def test_163_shards_through_bad_weather(hub: Hub, store: Store) -> None:
    """5 % of the connections are cut, 1 % of the chunks are damaged."""
    tensors = load(hub.files.pop(WEIGHTS))
    names = [(name, part) for name in tensors for part in range(-(-163 // len(tensors)))][:163]
    shards: dict[str, list[str]] = {}
    for index, (name, part) in enumerate(names):
        shards.setdefault(f"model-{index + 1:05}-of-00163.safetensors", []).append(name if part == 0 else f"padding.{index}")
    left = [name for name in tensors if not any(name in held for held in shards.values())]
    next(iter(shards.values())).extend(left)
    for file, held in shards.items():
        hub.files[file] = save({name: tensors.get(name, next(iter(tensors.values()))) for name in held})
    index_json = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    hub.files["model.safetensors.index.json"] = json.dumps(index_json).encode()
    hub.cut, hub.corrupt, hub.page, hub.random = 0.05, 0.01, 50, random.Random(3)
    done = pull(ID, PullSpec(), store)
    assert same(done, hub) and len(shards) == 163
    manifest = read_manifest(done.path)
    assert manifest and {f["path"]: f["sha256"] for f in manifest.files} == {
        path: hashlib.sha256(content).hexdigest() for path, content in hub.files.items()
    }
