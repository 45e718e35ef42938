"""What a machine keeps for itself is made once, belongs to one bundle, and is never believed when it looks wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from deepseek_cli.errors import DiskFull, ResourceError
from deepseek_cli.runtime import machine_cache
from deepseek_cli.runtime.machine_cache import ENTRY, MachineCache


class Maker:
    """Writes `size` bytes, and counts how often."""

    def __init__(self, size: int = 10) -> None:
        self.size, self.made = size, 0

    def __call__(self, staging: Path) -> None:
        self.made += 1
        (staging / "weights").write_bytes(bytes(self.size))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def cache(tmp_path: Path) -> MachineCache:
    return MachineCache(tmp_path / "packed", 1_000)


def make_bundle(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    return folder


def entry(cache: MachineCache, bundle: Path, make: Maker, form: str = "decode") -> Path:
    found = cache.entry(bundle, form, make.size, make)
    assert found
    return found


def test_an_entry_is_made_once(cache: MachineCache, bundle: Path) -> None:
    make = Maker()
    assert entry(cache, bundle, make) == entry(cache, bundle, make)
    assert make.made == 1


def test_what_runs_once_is_not_worth_an_entry(cache: MachineCache, bundle: Path) -> None:
    make = Maker()
    assert cache.entry(bundle, "decode", 10, make, at_once=False) is None
    assert cache.entry(bundle, "decode", 10, make, at_once=False)
    assert make.made == 1


def test_each_form_has_its_own(cache: MachineCache, bundle: Path) -> None:
    assert entry(cache, bundle, Maker()) != entry(cache, bundle, Maker(), form="prefill")


@pytest.mark.parametrize("change", ["truncated", "longer", "another file", "no record", "broken record", "writable", "link"])
def test_an_entry_that_looks_wrong_is_made_again(cache: MachineCache, bundle: Path, change: str) -> None:
    make = Maker()
    found = entry(cache, bundle, make)
    weights = found / "weights"
    if change == "truncated":
        weights.write_bytes(bytes(5))
    elif change == "longer":
        weights.write_bytes(bytes(11))
    elif change == "another file":
        (found / "more").touch()
    elif change == "no record":
        (found / ENTRY).unlink()
    elif change == "broken record":
        (found / ENTRY).write_text("[")
    elif os.name == "nt":
        pytest.skip("Windows has other permissions")
    elif change == "writable":
        weights.chmod(0o666)
    else:
        weights.unlink()
        weights.symlink_to(bundle / "model.onnx")
    assert entry(cache, bundle, make) == found
    assert make.made == 2
    assert weights.read_bytes() == bytes(10)


def test_another_bundles_entry_is_not_taken(cache: MachineCache, bundle: Path, tmp_path: Path) -> None:
    make = Maker()
    found, other = entry(cache, bundle, make), entry(cache, make_bundle(tmp_path / "other"), make)
    for file in found.iterdir():
        file.replace(other / file.name)
    assert entry(cache, tmp_path / "other", make) == other
    assert make.made == 3


def test_a_bundle_that_changed_has_another_entry(cache: MachineCache, bundle: Path) -> None:
    make = Maker()
    before = entry(cache, bundle, make)
    (bundle / "model.onnx").write_bytes(b"another graph")
    assert entry(cache, bundle, make) != before


def test_another_processor_has_another_entry(cache: MachineCache, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = entry(cache, bundle, Maker())
    monkeypatch.setattr(machine_cache, "processor", lambda: ("another", "flags"))
    assert entry(cache, bundle, Maker()) != before


def test_the_longest_unused_goes_first(tmp_path: Path, cache: MachineCache) -> None:
    bundles = [make_bundle(tmp_path / str(i)) for i in range(3)]
    found = [entry(MachineCache(cache.folder, 10**6), bundle, Maker()) for bundle in bundles]
    for age, path in enumerate(found):
        os.utime(path / ENTRY, (age, age))
    size = sum(file.stat().st_size for file in found[0].iterdir())
    room = MachineCache(cache.folder, 2 * size + 10)
    entry(room, make_bundle(tmp_path / "new"), Maker())
    assert [path.exists() for path in found] == [False, True, True]


def test_a_use_keeps_an_entry_young(cache: MachineCache, bundle: Path) -> None:
    found = entry(cache, bundle, Maker())
    os.utime(found / ENTRY, (1, 1))
    entry(cache, bundle, Maker())
    assert (found / ENTRY).stat().st_mtime > 1


def test_a_failed_making_leaves_nothing(cache: MachineCache, bundle: Path) -> None:
    def make(staging: Path) -> None:
        (staging / "weights").touch()
        raise ResourceError("no")

    with pytest.raises(ResourceError):
        cache.entry(bundle, "decode", 10, make)
    assert not list(cache.folder.iterdir())


def test_a_full_disk_is_said_before_anything_is_made(cache: MachineCache, bundle: Path) -> None:
    make = Maker()
    with pytest.raises(DiskFull, match="its disk has"):
        MachineCache(cache.folder, 10**19).entry(bundle, "decode", 10**18, make)
    assert not make.made


def test_what_is_larger_than_the_whole_cache_is_not_made(cache: MachineCache, bundle: Path) -> None:
    make = Maker()
    with pytest.raises(DiskFull, match="packed_cache"):
        cache.entry(bundle, "decode", cache.most + 1, make)
    assert not make.made


def test_the_record_says_what_an_entry_depends_on(cache: MachineCache, bundle: Path) -> None:
    import onnxruntime

    record = json.loads((entry(cache, bundle, Maker()) / ENTRY).read_text())
    assert onnxruntime.__version__ in record["key"]
    assert record["files"] == {"weights": 10}
