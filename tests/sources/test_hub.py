"""The hub through its own client: what is asked of it, and what each of its exceptions comes to. Nothing here uses a network."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from deepseek_cli.errors import DeepseekError, ModelNotFound, ModelUnsupported, NetworkError
from deepseek_cli.manifest import read_manifest
from deepseek_cli.sources.pull import pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store
from tests.conftest import Outcome
from tests.toys import DEPLOYABLE, make_toy

ID = "org/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Cli = Callable[..., Outcome]


@dataclass
class Hub:
    """Stands in for `snapshot_download`: keeps what it was asked, and answers with a folder or an exception."""

    folder: Path
    asked: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None

    def __call__(self, hub_id: str, **options: Any) -> Any:
        self.asked.append({"hub_id": hub_id, **options})
        if self.error:
            raise self.error
        if options.get("dry_run"):
            return [SimpleNamespace(filename=f.name, file_size=f.stat().st_size) for f in self.folder.iterdir()]
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A cache as the client lays it out: a snapshot of links into blobs."""
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / COMMIT
    make_toy(blobs, **DEPLOYABLE)
    snapshot.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(blob)
    stand_in = Hub(snapshot)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stand_in)
    return stand_in


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def http(kind: type[Exception], status: int) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "https://hub.example/api/models/org/name"))
    return kind("message of the client", response=response)  # type: ignore[call-arg]


# what is fetched


@pytest.mark.parametrize("ref", ["hf:org/name", "org/name"])
def test_a_model_is_entered_with_its_commit_and_left_in_the_cache(hub: Hub, store: Store, ref: str) -> None:
    done = pull(ref, PullSpec(), store)
    assert (done.name, done.handle and done.handle.root) == ("org--name", hub.folder)
    manifest = read_manifest(done.path)
    assert manifest and manifest.source == {"ref": "hf:org/name", "revision": COMMIT}
    assert pull(ref, PullSpec(), store).unchanged


def test_an_output_does_not_link_into_the_cache(hub: Hub, store: Store, tmp_path: Path) -> None:
    done = pull(ID, PullSpec(), store, tmp_path / "copy")
    shutil.rmtree(hub.folder.parents[1])
    assert not any(f.is_symlink() for f in done.path.iterdir())
    assert (done.path / "model.safetensors").stat().st_size > 1000


def test_a_newer_commit_takes_the_place_of_the_older(hub: Hub, store: Store) -> None:
    pull(ID, PullSpec(), store)
    hub.folder = hub.folder.rename(hub.folder.with_name("f" * 40))
    assert not pull(ID, PullSpec(), store).unchanged
    manifest = read_manifest(store.models / "org--name")
    assert manifest and manifest.source["revision"] == "f" * 40


def test_only_weights_config_tokenizer_and_licence_are_asked_for(hub: Hub, store: Store) -> None:
    pull(ID, PullSpec(revision="v1", workers=2), store)
    (asked,) = hub.asked
    assert (asked["hub_id"], asked["revision"], asked["max_workers"], asked["local_files_only"]) == (ID, "v1", 2, False)
    assert {"*.safetensors", "config.json", "tokenizer*", "LICENSE*"} <= set(asked["allow_patterns"])
    assert not {"*", "*.bin", "*.pt"} & set(asked["allow_patterns"])
    assert {"*.py", "*/*"} <= set(asked["ignore_patterns"])


def test_more_and_less_can_be_asked_for(hub: Hub, store: Store) -> None:
    pull(ID, PullSpec(include=("sub/*.json",), exclude=("tokenizer.model",)), store)
    (asked,) = hub.asked
    assert "sub/*.json" in asked["allow_patterns"]
    assert set(asked["ignore_patterns"]) == {"tokenizer.model", "*.py"}


def test_the_users_token_is_only_for_the_hub_it_belongs_to(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    pull(ID, PullSpec(), store)
    pull(ID, PullSpec(source="https://mirror.example"), store, force=True)
    own, other = hub.asked
    assert (own["endpoint"], own["token"]) == ("https://huggingface.co", None)  # None: the client finds it itself
    assert (other["endpoint"], other["token"]) == ("https://mirror.example", False)


def test_the_variable_of_the_client_names_the_hub(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.internal")
    pull(ID, PullSpec(), store)
    pull(ID, PullSpec(source="https://mirror.example"), store, force=True)
    assert [asked["endpoint"] for asked in hub.asked] == ["https://hub.internal", "https://mirror.example"]


def test_offline_means_that_only_the_cache_is_asked(hub: Hub, store: Store) -> None:
    pull(ID, PullSpec(), store, offline=True)
    assert hub.asked[0]["local_files_only"] is True


def test_a_plan_lists_bytes_and_fetches_nothing(hub: Hub, store: Store) -> None:
    done = pull(ID, PullSpec(), store, dry_run=True)
    assert done.plan["model.safetensors"] == (hub.folder / "model.safetensors").stat().st_size
    assert hub.asked[0]["dry_run"] is True
    assert not store.home.exists()


def test_a_repository_without_safetensors_is_refused(hub: Hub, store: Store) -> None:
    (hub.folder / "model.safetensors").unlink()
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelUnsupported, match=r"hf:org/name holds no safetensors.* Pickles are refused"):
        pull(ID, PullSpec(), store)
    assert not store.home.exists()


# what can go wrong

WRONG = [
    (http(hub_errors.GatedRepoError, 403), ModelNotFound, "hf:org/name is gated.* set HF_TOKEN"),
    (http(hub_errors.RepositoryNotFoundError, 404), ModelNotFound, "has no model org/name, or it is private"),
    (hub_errors.HFValidationError("bad name"), ModelNotFound, "has no model org/name"),
    (http(hub_errors.RevisionNotFoundError, 404), ModelNotFound, "has no revision v9.* Check --revision"),
    (hub_errors.OfflineModeIsEnabled("offline"), NetworkError, "cannot be reached for hf:org/name: OfflineModeIsEnabled"),
    (hub_errors.LocalEntryNotFoundError("not cached"), NetworkError, "cannot be reached.* --source URL"),
    (hub_errors.IncompleteSnapshotError("half", snapshot_path="x"), NetworkError, "cannot be reached"),
    (httpx.ConnectError("refused"), NetworkError, "https://huggingface.co .* hf:org/name: ConnectError"),
    (httpx.ReadTimeout("slow"), NetworkError, "ReadTimeout"),
    (ConnectionResetError(errno.ECONNRESET, "reset"), NetworkError, "cannot be reached.*ConnectionResetError"),
    (TimeoutError("slow"), NetworkError, "cannot be reached"),
    (http(hub_errors.HfHubHTTPError, 500), NetworkError, "https://huggingface.co"),
    (http(hub_errors.HfHubHTTPError, 429), NetworkError, "https://huggingface.co"),
    (hub_errors.XetDownloadError("xet"), NetworkError, "did not give hf:org/name: XetDownloadError"),
    (RuntimeError("whatever"), NetworkError, "did not give hf:org/name: RuntimeError"),
]


@pytest.mark.parametrize(
    ("error", "kind", "says"), WRONG, ids=lambda value: type(value).__name__ if isinstance(value, Exception) else ""
)
def test_what_the_client_raises(hub: Hub, store: Store, error: Exception, kind: type[DeepseekError], says: str) -> None:
    hub.error = error
    with pytest.raises(kind, match=says) as caught:
        pull(ID, PullSpec(revision="v9"), store)
    assert caught.value.exit_code == (5 if kind is NetworkError else 3)
    assert caught.value.hint
    assert "message of the client" not in str(caught.value)
    assert not store.home.exists()


@pytest.mark.parametrize(("error", "kind", "says"), WRONG[:3], ids=["gated", "missing", "invalid"])
def test_a_plan_meets_the_same_errors(hub: Hub, store: Store, error: Exception, kind: type[DeepseekError], says: str) -> None:
    hub.error = error
    with pytest.raises(kind, match=says):
        pull(ID, PullSpec(), store, dry_run=True)


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 4, "disk-full"),
        (PermissionError(errno.EACCES, "Permission denied", "cache"), 4, "resource-error"),
        (OSError(errno.EROFS, "Read-only file system", "cache"), 4, "resource-error"),
        (http(hub_errors.GatedRepoError, 401), 3, "model-not-found"),
        (httpx.ConnectError("refused"), 5, "network-error"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["full", "denied", "read-only", "gated", "down", "interrupted"],
)
def test_exit_codes(hub: Hub, cli: Cli, error: Any, code: int, name: str) -> None:
    hub.error = error
    done = cli("pull", "hf:org/name", "--json")
    assert (done.code, done.json["error"]["code"]) == (code, name)


def test_a_mirror_is_named_where_it_fails(hub: Hub, store: Store) -> None:
    hub.error = httpx.ConnectError("refused")
    with pytest.raises(NetworkError, match=r"https://mirror\.example cannot|https://mirror\.example did"):
        pull(ID, PullSpec(source="https://mirror.example"), store)


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
    assert len([asked for asked in hub.asked if not asked.get("dry_run")]) == 1  # what is here is not asked for again
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
