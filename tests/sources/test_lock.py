"""deepseek.lock.json: what a pull writes down, and what `--locked` refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome
from tests.sources.loopback_hub import COMMIT, Hub, git_sha1

Cli = Callable[..., Outcome]
REF = "hf:org/name"
LOCK = Path("deepseek.lock.json")


@pytest.fixture
def project(cli: Cli, hub: Hub) -> Cli:
    """A project folder whose model was pulled, and with it locked."""
    Path("deepseek.toml").write_text(f'model = "{REF}"\n')
    assert cli("pull").code == 0
    return cli


def change(**fields: Any) -> None:
    LOCK.write_text(json.dumps(json.loads(LOCK.read_text()) | fields))


def change_config(**fields: Any) -> None:
    files = json.loads(LOCK.read_text())["files"]
    change(files=[f | fields if f["path"] == "config.json" else f for f in files])


def refusal(done: Outcome) -> tuple[int, str]:
    return done.code, done.json["error"]["message"]


def test_a_project_is_locked_beside_its_settings(project: Cli, hub: Hub) -> None:
    lock = json.loads(LOCK.read_text())
    assert {key: lock[key] for key in ("schema", "source", "revision", "commit", "options")} == {
        "schema": "deepseek.lock/1",
        "source": REF,
        "revision": None,
        "commit": COMMIT,
        "options": {},
    }
    weights = hub.files["model.safetensors"]
    found = {f["path"]: f for f in lock["files"]}
    assert found.keys() == hub.files.keys()
    digest = hashlib.sha256(weights).hexdigest()
    assert found["model.safetensors"] == {"path": "model.safetensors", "bytes": len(weights), "sha256": digest}
    assert found["config.json"]["git_sha1"] == git_sha1(hub.files["config.json"])


def test_without_a_project_only_a_named_file_is_written(cli: Cli, hub: Hub) -> None:
    cli("pull", REF)
    assert not LOCK.exists()
    assert cli("pull", REF, "--lock", "mine.json").code == 0  # nothing is fetched, and it is written all the same
    assert json.loads(Path("mine.json").read_text())["commit"] == COMMIT
    assert cli("pull", "nano", "--lock", "mine.json").code == 2


def test_a_lock_follows_the_branch_until_it_is_held_to(project: Cli, hub: Hub) -> None:
    before = LOCK.read_text()
    hub.commit = "f" * 40
    assert project("pull", "--locked").code == 0
    assert LOCK.read_text() == before
    assert project("pull").code == 0
    assert json.loads(LOCK.read_text())["commit"] == "f" * 40


def test_what_the_cache_holds_needs_no_hub(project: Cli, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert project("pull", "--locked").code == 0
    assert project("pull", "--locked", "--offline").code == 0
    assert project("pull", "--locked", "-o", "copy").code == 0
    assert Path("copy/model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_on_another_machine_the_same_files_come(project: Cli, hub: Hub, cache: Path, tmp_path: Path) -> None:
    cache.rename(tmp_path / "gone")
    assert project("pull", "--locked", "-o", "copy").code == 0
    assert {f.name: f.read_bytes() for f in Path("copy").iterdir() if f.name != "deepseek.json"} == hub.files


@pytest.mark.parametrize(
    ("drift", "says"),
    [
        (
            lambda hub: hub.files.pop("tokenizer.json"),
            "tokenizer.json is in deepseek.lock.json, and hf:org/name has no",
        ),
        (lambda hub: hub.files.update(LICENSE=b"new"), "LICENSE is not in deepseek.lock.json, and hf:org/name has it"),
        (lambda hub: hub.files.update({"generation_config.json": b"{ }"}), "generation_config.json is another file at"),
        (lambda hub: hub.files.update({"model.safetensors": b"0" * 9}), "model.safetensors is another file at"),
    ],
)
def test_a_hub_that_has_drifted(
    project: Cli, hub: Hub, cache: Path, tmp_path: Path, drift: Callable[[Hub], object], says: str
) -> None:
    cache.rename(tmp_path / "gone")
    drift(hub)
    before = hub.sent()
    code, message = refusal(project("pull", "--locked", "--json", "-o", "copy"))
    assert (code, message.startswith(says)) == (3, True)
    assert not Path("copy").exists() and hub.sent() == before


def test_a_cache_that_has_drifted(project: Cli, hub: Hub, cache: Path) -> None:
    blob = next((cache / "models--org--name" / "snapshots").glob("*/model.safetensors")).resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, message = refusal(project("pull", "--locked", "--offline", "--json"))
    assert (code, message) == (3, "model.safetensors is another file on this machine than in deepseek.lock.json.")
    assert project("pull", "--locked", "--force").code == 0  # with a network it is put right
    assert blob.read_bytes() == content


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["hf:org/other", "--locked"], "is for hf:org/name, not for hf:org/other"),
        ([REF, "--locked", "--lock", "none.json"], "There is no lock file none.json"),
        ([REF, "--locked", "--lock", LOCK, "--revision", "v1"], "locks another revision than v1"),
        ([REF, "--locked", "--lock", LOCK, "--include", "*.md"], "was written with other options"),
        (["nano", "--locked"], "comes from no hub"),
    ],
)
def test_what_a_lock_cannot_answer(project: Cli, words: list[object], says: str) -> None:
    words = [*words, *(["--lock", LOCK] if "--lock" not in words and words[0] != "nano" else []), "--json"]
    code, message = refusal(project("pull", *words))
    assert (code, says in message) == (2, True)


def test_a_model_that_no_project_names_has_no_lock(cli: Cli, hub: Hub) -> None:
    assert refusal(cli("pull", REF, "--locked", "--json")) == (2, "--locked needs a lock file.")


@pytest.mark.parametrize(
    "damage",
    [
        lambda: LOCK.write_text("["),
        lambda: change(schema="deepseek.lock/2"),
        lambda: change(commit="main"),
        lambda: change(files=[{"path": "a"}]),
        lambda: change_config(path="../config.json"),
        lambda: change_config(path="C:config.json"),
        lambda: change_config(sha256="0"),
        lambda: change_config(git_sha1="../../evil"),
        lambda: change_config(bytes=-1),
    ],
)
def test_lock_files_that_are_none(project: Cli, damage: Callable[[], object]) -> None:
    damage()
    asked = project("pull", "--locked", "--json")
    assert (asked.code, asked.json["error"]["code"]) == (2, "usage-error")
