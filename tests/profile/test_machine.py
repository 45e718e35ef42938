from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deepseek_cli.profile import machine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of both versions, as a process in `box/inner` sees them."""
    (tmp_path / "self").write_text("4:cpu,memory:/old/inner\n3:cpuset:/\n0::/box/inner\n")
    for folder in ("box/inner", "memory/old/inner"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "self")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    return tmp_path


def test_the_smallest_limit_around_a_process_holds(groups: Path) -> None:
    (groups / "box" / "memory.max").write_text("3000\n")
    (groups / "box" / "inner" / "memory.max").write_text("5000\n")
    assert machine.cgroup_limit() == 3000


def test_the_first_version_is_read_too(groups: Path) -> None:
    (groups / "memory" / "old" / "inner" / "memory.limit_in_bytes").write_text("7000\n")
    assert machine.cgroup_limit() == 7000


def test_no_limit_is_none(groups: Path) -> None:
    (groups / "box" / "memory.max").write_text("max\n")
    (groups / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine.cgroup_limit() is None


def test_no_groups_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "nowhere")
    assert machine.cgroup_limit() is None


def test_the_limit_of_addresses_counts(groups: Path) -> None:
    import resource

    (groups / "box" / "memory.max").write_text(str(1 << 50))
    kept = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 45, kept[1]))
    try:
        assert machine.process_limit() == 1 << 45
    finally:
        resource.setrlimit(resource.RLIMIT_AS, kept)
    assert machine.process_limit() == 1 << 50
