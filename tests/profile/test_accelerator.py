"""Rows of torch's accelerator allocator: from a snapshot in the form that torch documents, and live where a GPU is."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_cli.errors import UsageError
from deepseek_cli.main import main
from deepseek_cli.profile.accelerator import AllocatorReader
from deepseek_cli.profile.snapshot import read_snapshot

MIB = 1 << 20


def block(size: int, state: str, requested: int | None = None) -> dict[str, Any]:
    return {"size": size, "requested_size": requested or size, "address": 0, "state": state, "frames": []}


def snapshot() -> dict[str, Any]:
    """Two segments, 22 MiB held: 12 MiB in tensors, 2 MiB waiting for a stream, 8 MiB free. Before that, 6 MiB were freed."""
    common = {"device": 0, "stream": 0, "active_size": 0, "requested_size": 0}
    small = [block(2 * MIB, "active_pending_free")]
    large = [block(8 * MIB, "active_allocated", 7 * MIB), block(8 * MIB, "inactive"), block(4 * MIB, "active_allocated")]
    event = {"addr": 0, "stream": 0, "frames": []}
    return {
        "segments": [
            {**common, "total_size": 2 * MIB, "allocated_size": 0, "segment_type": "small", "blocks": small},
            {**common, "total_size": 20 * MIB, "allocated_size": 12 * MIB, "segment_type": "large", "blocks": large},
        ],
        "device_traces": [
            [
                {**event, "action": "segment_alloc", "size": 20 * MIB},
                {**event, "action": "alloc", "size": 7 * MIB},
                {**event, "action": "alloc", "size": 6 * MIB},
                {**event, "action": "free_requested", "size": 6 * MIB},
                {**event, "action": "free_completed", "size": 6 * MIB},
                {**event, "action": "alloc", "size": 4 * MIB},
            ]
        ],
    }


def written(folder: Path, value: Any) -> Path:
    file = folder / "snapshot.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


def test_a_snapshot_gives_a_row(tmp_path: Path) -> None:
    row = read_snapshot(written(tmp_path, snapshot()))
    assert row["allocated_bytes"] == 12 * MIB
    assert row["reserved_bytes"] == 22 * MIB
    assert row["peak_bytes"] == 13 * MIB  # 7 and 6, before the 4
    assert row["fragmentation"] == pytest.approx(1 - 12 / 22)


def test_a_snapshot_without_history_peaks_where_it_is(tmp_path: Path) -> None:
    row = read_snapshot(written(tmp_path, {**snapshot(), "device_traces": []}))
    assert row["peak_bytes"] == 12 * MIB


def test_an_empty_snapshot_is_no_division_by_zero(tmp_path: Path) -> None:
    row = read_snapshot(written(tmp_path, {"segments": [], "device_traces": []}))
    assert row["fragmentation"] == 0


@pytest.mark.parametrize("wrong", [[], {"segments": [{"blocks": 3}]}, {}, "text", None])
def test_what_is_no_snapshot_is_named(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"snapshot\.json is not a memory snapshot"):
        read_snapshot(written(tmp_path, wrong))


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "snapshot.pickle"
    file.write_bytes(b"\x80\x05cos\nsystem\n.")
    with pytest.raises(UsageError, match="is not a memory snapshot"):
        read_snapshot(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_snapshot(tmp_path / "none.json")


def test_a_machine_without_a_gpu_has_no_rows() -> None:
    reader = AllocatorReader()
    reader.reset()
    reader.step()
    reader.phase("train")
    live = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert live or reader.rows is None


class Hostile:
    """What a stranger's pickle may ask for."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


HUGE_MEMO = b"\x80\x04" + b"r" + (1 << 31).to_bytes(4, "little") + b"."  # a place far off in the memo


def test_a_pickle_gives_the_same_row(tmp_path: Path) -> None:
    file = tmp_path / "x.pickle"
    file.write_bytes(pickle.dumps(snapshot()))
    assert read_snapshot(file) == read_snapshot(written(tmp_path, snapshot()))


@pytest.mark.skipif(sys.platform == "win32", reason="memory is not limited there")
@pytest.mark.parametrize(
    "content", [b"", b"\x80", HUGE_MEMO, b"\x80\x04N" + HUGE_MEMO[2:], pickle.dumps({"segments": 7})], ids=repr
)
def test_a_damaged_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.pickle"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.pickle is not a memory snapshot"):
        read_snapshot(file)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    file, mark = tmp_path / "x.pickle", tmp_path / "mark"
    file.write_bytes(pickle.dumps({**snapshot(), "extra": Hostile(mark)}))
    with pytest.raises(UsageError):
        read_snapshot(file)
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists()  # it would have


def test_the_command_reports_a_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = written(tmp_path, snapshot()), tmp_path / "page.html"
    assert main(["profile", str(file), "--html", str(page), "--json", "--max-peak", "20MiB"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["moments"][0]["bytes"] == sum(part["bytes"] for part in found["moments"][0]["parts"]) == 22 * MIB
    assert found["allocator"][0]["peak_bytes"] == 13 * MIB
    assert '"allocated_bytes":' in page.read_text(encoding="utf-8")
