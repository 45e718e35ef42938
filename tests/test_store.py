from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek_cli.errors import DiskFull, ModelNotFound, ResourceError, UsageError
from deepseek_cli.manifest import Manifest, write_manifest
from deepseek_cli.store import Store, passing, require_space, result_name, staged


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    results = ("", "@int4-g32-fast", "@int8-channel-fast", "@int4-g32-fast+cpu")
    for i, name in enumerate([*(f"org--Model-1B{result}" for result in results), "Other"]):
        folder = store.models / name
        folder.mkdir(parents=True)
        write_manifest(
            folder, Manifest(name, source={"ref": "hf:org/Model-1B"}, quantization={"*": "int4"} if "@" in name else {})
        )
        os.utime(folder / "deepseek.json", (i, i))
    return store


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org--Model-1B", "org--Model-1B"),
        ("model-1b", "org--Model-1B"),
        ("Model-1B@int4", "org--Model-1B@int4-g32-fast"),
        ("model-1b@int8", "org--Model-1B@int8-channel-fast"),
        ("oth", "Other"),
        ("MODEL", "org--Model-1B"),
        ("model@int4", "org--Model-1B@int4-g32-fast"),
        ("model@int4+cpu", "org--Model-1B@int4-g32-fast+cpu"),
        ("model+cpu", "org--Model-1B@int4-g32-fast+cpu"),
        ("org--m@int8", "org--Model-1B@int8-channel-fast"),
    ],
)
def test_a_name_or_its_shortening_finds_the_entry(store: Store, text: str, name: str) -> None:
    found = store.find(text)
    assert found is not None
    assert found[1].name == name


def test_an_ambiguous_shortening_names_what_it_could_be(store: Store) -> None:
    with pytest.raises(UsageError, match=r"Model-1B@int4-g32-fast, org--Model-1B@int8"):
        store.find("Model-1B@int")


def test_an_unknown_name_finds_nothing(store: Store) -> None:
    assert store.find("nothing") is None
    with pytest.raises(ModelNotFound):
        store.remove("nothing")


def test_newest_of_a_lineage(store: Store) -> None:
    newest = store.newest("hf:org/Model-1B", kinds=("model",))
    assert newest is not None
    assert newest[1].name == "Other"
    quantized = store.newest("hf:org/Model-1B", quantized=True)
    assert quantized is not None
    assert quantized[1].name.endswith("+cpu")
    assert store.newest("hf:none/such") is None


def test_names() -> None:
    assert result_name("org--M", "int4-g32", "fast") == "org--M@int4-g32-fast"
    assert result_name("org--M@int4-g32-fast", target="cpu") == "org--M@int4-g32-fast+cpu"
    assert result_name("org--M@int8-fast", "int4-g64", "fast") == "org--M@int4-g64-fast"


def test_a_staged_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "out"
    with staged(final) as folder:
        (folder / "x").write_text("1")
        assert not final.exists()
    assert (final / "x").read_text() == "1"
    with pytest.raises(RuntimeError), staged(final, force=True) as folder:
        (folder / "x").write_text("2")
        raise RuntimeError
    assert (final / "x").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_existing_place_needs_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="--force"), staged(tmp_path / "out"):
        pass
    with staged(tmp_path / "out", force=True) as folder:
        (folder / "x").write_text("new")
    assert (tmp_path / "out" / "x").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"), staged(tmp_path / "file" / "out"):
        pass


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DiskFull), staged(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())
    with pytest.raises(DiskFull, match="MB free"):
        require_space(tmp_path / "a" / "b", 1 << 60)


def test_staging_of_a_killed_process_is_swept(tmp_path: Path) -> None:
    code = """
import os, sys, pathlib
from deepseek_cli.store import staged
with staged(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert [p.name.split("-")[0] for p in tmp_path.iterdir()] == ["out.staging"]
    with staged(tmp_path / "out"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_replacement_moved_aside_comes_back(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old = tmp_path / f"out.old-{gone.pid}"
    old.mkdir()
    (old / "x").write_text("before")
    with pytest.raises(UsageError, match="--force"), staged(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "x").read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_passing_folder_goes_with_its_block_and_a_killed_one_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / "bundle.passing.staging-999999999"
    (left / "model").mkdir(parents=True)
    (tmp_path / "bundle.passing").mkdir()  # somebody's own
    with pytest.raises(ZeroDivisionError), passing(tmp_path / "bundle") as folder:
        assert folder.is_dir() and not left.exists()
        raise ZeroDivisionError
    assert [f.name for f in tmp_path.iterdir()] == ["bundle.passing"]
