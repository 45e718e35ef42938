"""Hubs and repositories that mean harm: each is refused, in words that name the file and the reason."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from deepseek_cli.errors import ModelCorrupt, NetworkError
from deepseek_cli.sources import wire
from deepseek_cli.sources.embedded import DATA
from deepseek_cli.sources.origins import origin_of
from deepseek_cli.sources.pull import pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.sources.wire import RemoteFile, Wire
from deepseek_cli.store import Store
from tests.sources.loopback_hub import ID, TOKEN, Hub, serving

EMPTY = {"type": "file", "size": 0, "oid": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}
CONFIG = (DATA / "nano" / "config.json").read_bytes()
WEIGHTS = b"\x08\0\0\0\0\0\0\0{}      "
ALL = PullSpec(include=("*",))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(wire, "Patience", functools.partial(wire.Patience, attempts=2, first_wait_s=0.01))
    with serving(Hub({"config.json": CONFIG, "model.safetensors": WEIGHTS})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def refused(tmp_path: Path, kind: type[Exception], says: str, spec: PullSpec = ALL) -> None:
    """Neither the cache nor a folder shows anything of the model, and nothing lies outside."""
    store = Store(tmp_path / "home")
    for output in (None, tmp_path / "out"):
        with pytest.raises(kind, match=says):
            pull(ID, spec, store, output)
    assert {f.name for f in tmp_path.iterdir()} <= {"cache", "out.work"}
    assert list(tmp_path.glob("cache/models--*/refs/*")) == list(tmp_path.glob("cache/models--*/snapshots/*")) == []


@pytest.mark.parametrize(
    "path",
    ["../evil.json", "a/../../evil.json", "/etc/evil.json", "..\\evil.json", "a\\..\\b.json", "C:\\evil.json", "C:evil.json"]  # noqa: RUF005
    + ["\\\\server\\share\\x.json", "a//b.json", "./x.json", "..", "x\0.json"],
)
@pytest.mark.parametrize("spec", [ALL, PullSpec()], ids=["wanted", "unwanted"])
def test_paths_that_lead_out(hub: Hub, tmp_path: Path, path: str, spec: PullSpec) -> None:
    hub.tree = {path: {**EMPTY, "path": path}}
    refused(tmp_path, ModelCorrupt, "hf:org/name holds a file named .* which is refused: it could leave the folder", spec)


@pytest.mark.parametrize(
    "path",
    ["con.json", "sub/NUL", "com1.x", "lpt¹.x", "a.json.", "a.json ", "a?.json", "a\n.json", "ab:c.json", "x|y", "aux/x"],
)
def test_names_that_windows_cannot_hold(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.tree = {path: EMPTY}
    refused(tmp_path, ModelCorrupt, "which is refused: Windows cannot hold it")


@pytest.mark.parametrize("path", ["a" * 201, "/".join(["abc"] * 300)])
def test_names_that_are_too_long(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.tree = {path: EMPTY}
    refused(tmp_path, ModelCorrupt, "which is refused: it is too long")


@pytest.mark.parametrize("path", ["Config.json", "CONFIG.JSON", "Sub/a.json", "config.json/x", "\u212aelvin", "e\u0301.json"])
def test_names_that_are_one_file_on_other_systems(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.tree = {path: EMPTY, "sub/b.json": EMPTY, "kelvin": EMPTY, "\u00e9.json": EMPTY}
    refused(tmp_path, ModelCorrupt, "which is refused: another name differs from it only in case")


@pytest.mark.parametrize("size", [-1, True, "12", 1.5, None])
def test_sizes_that_are_none(hub: Hub, tmp_path: Path, size: object) -> None:
    hub.tree = {"config.json": {"size": size}}
    refused(tmp_path, ModelCorrupt, "the size of config.json cannot be")


@pytest.mark.parametrize("digest", ["../../../evil", "", "0" * 39, "G" * 40, "/etc/passwd"])
def test_digests_that_are_none(hub: Hub, tmp_path: Path, digest: str) -> None:
    hub.tree = {"config.json": {"oid": digest}}
    refused(tmp_path, ModelCorrupt, "the digest of config.json cannot be")


@pytest.mark.parametrize("commit", ["../../evil", "main", "0" * 39])
def test_a_commit_that_is_none(hub: Hub, tmp_path: Path, commit: str) -> None:
    hub.commit = commit
    refused(tmp_path, ModelCorrupt, "the commit cannot be")


@pytest.mark.parametrize("size", [4, 10**6])
@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_sizes_that_are_lies(hub: Hub, tmp_path: Path, path: str, size: int) -> None:
    entry = hub.entry(path)
    hub.tree = {path: {"size": size} | ({"lfs": {**entry["lfs"], "size": size}} if "lfs" in entry else {})}
    refused(tmp_path, ModelCorrupt, rf"announces {size} bytes for {path} and serves \d+")


def test_a_header_of_10_gb(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = (10**10).to_bytes(8, "little") + b"{}      "
    refused(tmp_path, ModelCorrupt, r"model\.safetensors: its header claims 10000000000 bytes, the file has 16")


def test_the_token_does_not_follow_a_redirect(hub: Hub, tmp_path: Path) -> None:
    with serving(Hub({})) as thief:
        hub.redirect = f"{thief.cdn}/steal"
        refused(tmp_path, NetworkError, r"gives no more of model\.safetensors: HTTP 403")
        assert thief.asked and [a for a in thief.asked if TOKEN in str(a.headers)] == []


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://host/x", "gopher://x", "http://[", "javascript:0", "http://a..b/x"]
)
def test_redirects_to_what_is_no_hub(hub: Hub, tmp_path: Path, address: str) -> None:
    hub.redirect = address
    refused(tmp_path, NetworkError, r"(sends us for|redirects|gives no more of) model\.safetensors( to |: UnicodeError)")


def test_redirects_in_a_circle(hub: Hub, tmp_path: Path) -> None:
    hub.redirect = "/again"
    refused(tmp_path, NetworkError, r"redirects model\.safetensors without an end")


@pytest.mark.parametrize(
    ("there", "allowed"), [("http://cdn.example/x", False), ("http://127.0.0.1/x", True), ("https://cdn.example/x", True)]
)
def test_encryption_is_not_given_up(there: str, allowed: bool) -> None:
    line, file = Wire(origin_of("https://hub.example")), RemoteFile("config.json", 1, "0" * 40, "")
    try:
        if allowed:
            assert line._redirected(file, "https://hub.example/a", there) == there
        else:
            with pytest.raises(NetworkError, match=r"http://cdn\.example, which is refused"):
                line._redirected(file, "https://hub.example/a", there)
    finally:
        line.close()


def test_no_secret_is_said(hub: Hub, tmp_path: Path) -> None:
    hub.redirect = f"{hub.cdn}/x?token={TOKEN}"
    with pytest.raises(NetworkError) as caught:
        pull(ID, ALL, Store(tmp_path / "home"))
    assert TOKEN not in str(caught.value)
