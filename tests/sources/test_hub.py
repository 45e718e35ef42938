"""`deepseek pull` from a hub: what is asked for, where it lies afterwards, and what every refusal comes to."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, snapshot_download

from deepseek_cli.errors import DiskFull, ModelNotFound, ModelUnsupported, NetworkError, UsageError
from deepseek_cli.manifest import read_manifest
from deepseek_cli.sources import hub as hub_module
from deepseek_cli.sources.pull import pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store
from tests.conftest import Outcome
from tests.sources.loopback_hub import COMMIT, ID, TOKEN, Hub

Cli = Callable[..., Outcome]
SPEC = PullSpec()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "ASK_AGAIN_S", (0, 0))


def fetched(hub: Hub) -> set[str]:
    return {a.path.split(f"/{COMMIT}/")[1] for a in hub.asked if f"/resolve/{COMMIT}/" in a.path}


# what is fetched, and where it lies


@pytest.mark.parametrize("ref", ["hf:org/name", "org/name"])
def test_a_model_is_entered_with_its_commit_and_left_in_the_cache(hub: Hub, store: Store, cache: Path, ref: str) -> None:
    done = pull(ref, SPEC, store)
    snapshot = cache / "models--org--name" / "snapshots" / COMMIT
    assert (done.name, done.handle and done.handle.root) == ("org--name", snapshot)
    manifest = read_manifest(done.path)
    assert manifest and manifest.source == {"ref": "hf:org/name", "revision": COMMIT}
    before = len(fetched(hub))
    assert pull(ref, SPEC, store).unchanged
    assert len(fetched(hub)) == before


def test_the_hubs_own_client_finds_the_files_without_a_network(hub: Hub, store: Store, cache: Path) -> None:
    pull(ID, SPEC, store)
    for path, content in hub.files.items():
        assert Path(hf_hub_download(ID, path, cache_dir=cache, local_files_only=True)).read_bytes() == content
    assert Path(snapshot_download(ID, cache_dir=cache, local_files_only=True)).name == COMMIT


def test_what_the_hubs_own_client_fetched_is_hashed_and_not_fetched_again(hub: Hub, store: Store, cache: Path) -> None:
    snapshot_download(ID, endpoint=hub.url, cache_dir=cache)
    before = hub.sent()
    pull(ID, SPEC, store)
    assert hub.sent() == before


def test_offline_only_the_cache_is_asked(hub: Hub, store: Store) -> None:
    with pytest.raises(NetworkError, match="cannot be reached for hf:org/name"):
        pull(ID, SPEC, store, offline=True)
    pull(ID, SPEC, store)
    asked = len(hub.asked)
    assert pull(ID, SPEC, store, offline=True).unchanged
    assert len(hub.asked) == asked


def test_an_output_is_a_folder_of_its_own(hub: Hub, store: Store, tmp_path: Path, cache: Path) -> None:
    done = pull(ID, SPEC, store, tmp_path / "copy")
    assert {f.name: f.read_bytes() for f in done.path.iterdir() if f.name != "deepseek.json"} == hub.files
    assert not any(f.is_symlink() for f in done.path.iterdir())
    assert sorted(f.name for f in tmp_path.iterdir() if f.name.startswith("copy")) == ["copy"]
    assert not (cache / "models--org--name").exists()
    assert pull(ID, SPEC, store, tmp_path / "copy").unchanged


def test_an_output_takes_from_the_cache_what_is_there(hub: Hub, store: Store, tmp_path: Path, cache: Path) -> None:
    pull(ID, SPEC, store)
    before = hub.sent()
    done = pull(ID, SPEC, store, tmp_path / "copy")
    assert hub.sent() == before
    shutil.rmtree(cache)
    assert (done.path / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_an_output_that_is_something_else_is_refused_before_the_weights_come(hub: Hub, store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="mine exists and holds something else"):
        pull(ID, SPEC, store, tmp_path / "mine")
    assert fetched(hub) == {"config.json"}


def test_a_newer_commit_takes_the_place_of_the_older(hub: Hub, store: Store) -> None:
    pull(ID, SPEC, store)
    hub.commit = "f" * 40
    before = hub.sent()
    assert not pull(ID, SPEC, store).unchanged
    manifest = read_manifest(store.models / "org--name")
    assert manifest and manifest.source["revision"] == "f" * 40
    assert hub.sent() == before  # its bytes are the same


def test_only_weights_config_tokenizer_and_licence_are_fetched(hub: Hub, store: Store) -> None:
    wanted = {*hub.files, "LICENSE", "chat_template.jinja"}
    more = ["pytorch_model.bin", "modeling_x.py", "tokenizer.py", "README.md", "LICENSE", "chat_template.jinja"]
    hub.files |= {path: path.encode() for path in (*more, "onnx/model.safetensors")}
    pull(ID, SPEC, store)
    assert fetched(hub) == wanted


def test_more_and_less_can_be_asked_for(hub: Hub, store: Store, cache: Path) -> None:
    hub.files |= {"sub/extra.json": b"{}", "sub/code.py": b"", "sub/other.safetensors": b""}
    pull(ID, PullSpec(include=("sub/*.json", "*.py"), exclude=("generation*",)), store)
    assert fetched(hub) == {*hub.files} - {"generation_config.json", "sub/code.py", "sub/other.safetensors"}
    manifest = read_manifest(store.models / "org--name")
    assert manifest and "sub/extra.json" in {f["path"] for f in manifest.files}
    assert not pull(ID, SPEC, store).unchanged  # which asks for one file more


def test_a_tag(hub: Hub, store: Store, cache: Path) -> None:
    pull(ID, PullSpec(revision="v1"), store)
    assert (cache / "models--org--name" / "refs" / "v1").read_text() == COMMIT
    assert not (cache / "models--org--name" / "refs" / "main").exists()


def test_a_plan_says_what_is_missing_and_fetches_none_of_it(hub: Hub, store: Store, cli: Cli) -> None:
    total = sum(map(len, hub.files.values()))
    plan = cli("pull", "hf:org/name", "--dry-run", "--json").json
    assert (plan["bytes"], plan["missing"], fetched(hub)) == (total, total, {"config.json"})
    assert plan["free"] > 0 and not store.home.exists()
    pull(ID, SPEC, store)
    assert pull(ID, SPEC, store, dry_run=True).missing == 0
    assert "0 B are to be fetched, and the disk has" in cli("pull", "hf:org/name", "-n").out


def test_a_full_disk_is_noticed_before_the_weights_come(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(DiskFull, match="has 0 MB free"):
        pull(ID, SPEC, store)
    assert fetched(hub) <= {"config.json"}


# who is shown the token


def test_the_token_is_for_the_hub_and_not_for_its_cdn(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.private = True
    pull(ID, SPEC, store)
    assert {a.headers.get("authorization") for a in hub.asked if a.origin == "hub"} == {f"Bearer {TOKEN}"}
    assert [a for a in hub.asked if a.origin == "cdn" and "authorization" in a.headers] == []


def test_the_token_is_not_for_a_mirror(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_ENDPOINT")
    done = pull(ID, PullSpec(source=hub.url), store)
    assert [a for a in hub.asked if "authorization" in a.headers] == []
    manifest = read_manifest(done.path)
    assert manifest and manifest.source["endpoint"] == hub.url


# refusals


def test_repositories_that_are_missing_private_or_gated(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFound, match=r"has no model org/other, or it is private.* set HF_TOKEN"):
        pull("hf:org/other", SPEC, store)
    hub.private = True
    with pytest.raises(ModelNotFound, match="has no model org/name, or it is private"):
        pull(ID, SPEC, store)
    monkeypatch.setenv("HF_TOKEN", "hf_anotherone")
    with pytest.raises(ModelNotFound, match=r"private and not for your token.* what HF_TOKEN may read"):
        pull(ID, SPEC, store)
    monkeypatch.delenv("HF_TOKEN")
    hub.private, hub.gated = False, True
    with pytest.raises(ModelNotFound, match=rf"hf:org/name is gated.* {hub.url}/org/name and set HF_TOKEN"):
        pull(ID, SPEC, store)
    assert not store.home.exists()


def test_a_revision_that_is_not_there(hub: Hub, store: Store) -> None:
    with pytest.raises(ModelNotFound, match=r"has no revision v9.* Check --revision"):
        pull(ID, PullSpec(revision="v9"), store)


def test_a_repository_without_safetensors_is_refused(hub: Hub, store: Store) -> None:
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    with pytest.raises(ModelUnsupported, match=r"hf:org/name holds its weights as pickles only \(pytorch_model.bin\)"):
        pull(ID, SPEC, store)
    assert not store.home.exists() and fetched(hub) == set()


@pytest.mark.parametrize(("status", "times", "code"), [(503, 2, 0), (429, 1, 0), (500, 9, 5), (418, 1, 5)])
def test_a_hub_that_fails_at_first_or_for_good(hub: Hub, cli: Cli, status: int, times: int, code: int) -> None:
    hub.hub_answers = deque([(status, {})] * times)
    done = cli("pull", "hf:org/name", "--json")
    assert done.code == code
    if code:
        assert f"did not give hf:org/name: HTTP {status}" in done.json["error"]["message"]


def test_a_hub_that_is_not_there(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = cli("pull", "hf:org/name", "--json")
    assert (done.code, done.json["error"]["code"]) == (5, "network-error")
    assert "http://127.0.0.1:9" in done.json["error"]["message"]


@pytest.mark.parametrize("words", [("--workers", "0"), ("--max-rate", "0")])
def test_limits_that_would_never_end(cli: Cli, words: tuple[str, str]) -> None:
    assert cli("pull", "hf:org/name", *words).code == 2


# from the hub to a bundle, in one command


def test_deploy_fetches_and_quantizes_on_the_way(hub: Hub, cli: Cli) -> None:
    words = ("deploy", "hf:org/name", "--int4", "--pull", "--threads", "1")
    planned = cli(*words, "--dry-run")
    assert planned.code == 0
    assert "The plan: pull hf:org/name → quantize --int4 → deploy --target cpu." in planned.err
    assert "files to fetch" in planned.err and "org--name+cpu would be written to" in planned.out
    done, again = cli(*words, "--json").json, cli(*words, "--json").json
    assert (done["name"], done["verification"]["level"]) == ("org--name@int4-g32-balanced+cpu", "L3")
    assert (again["name"], again["unchanged"]) == (done["name"], True)
    assert cli("deploy", "org--name@int4-g32-balanced", "--threads", "1", "--json").json["unchanged"] is True
    assert len([a for a in hub.asked if a.path.endswith("/config.json")]) <= 3 * 2  # two plans and a pull, each with a redirect
    assert cli("deploy", "org--name@int4-g32-balanced", "--int8").code == 2


def test_without_pull_nothing_is_fetched(hub: Hub, cli: Cli) -> None:
    done = cli("deploy", "hf:org/name", "--int4")
    assert (done.code, hub.asked) == (3, [])
    assert "deepseek pull hf:org/name" in done.err


def test_run_offers_the_way_to_a_bundle(hub: Hub, cli: Cli) -> None:
    refused = cli("run", "hf:org/name", "Hello")
    assert (refused.code, hub.asked) == (3, [])
    assert "deepseek deploy hf:org/name --int4 --pull" in refused.err
    agreed = cli("run", "hf:org/name", "Hello", "--yes", "--max-tokens", "4", "--threads", "1", "--json")
    assert agreed.code == 0
    assert agreed.json["text"]
    assert any("quantize --int4" in line for line in agreed.err.splitlines())
