from __future__ import annotations

from typing import Any

from deepseek_cli.profile.parts import PARTS, moments, parts_at, unattributed_share
from tests.profile.documents import ARENA, MIB, phases


def test_every_moment_sums_to_what_was_resident() -> None:
    made = phases()
    found = moments(made, ARENA)
    assert [m["moment"] for m in found] == ["peak", "import", "load", "prefill", "decode"]
    for moment in found:
        assert sum(part["bytes"] for part in moment["parts"]) == moment["bytes"]
        assert {part["part"] for part in moment["parts"]} <= set(PARTS)
        assert moment["parts"][-1]["part"] == "unattributed"
    assert found[0]["bytes"] == max(p["peak_bytes"] for p in made)


def test_the_peak_is_its_phase_and_what_was_freed_in_it() -> None:
    peak = moments(phases(), ARENA)[0]
    assert peak["phase"] == "load"
    assert {p["part"]: p["bytes"] for p in peak["parts"]}["transient"] == 60 * MIB


def parts_of(moment: dict[str, Any]) -> dict[str, int]:
    return {p["part"]: p["bytes"] for p in moment["parts"]}


def test_what_is_not_explained_is_shown() -> None:
    decode = moments(phases(), None)[-1]
    parts = parts_of(decode)
    assert parts["weights_memory"] == parts["activations"] == parts["runtime_heap"] == 0
    assert parts["unattributed"] == 201 * MIB - (5 + 15 + 1 + 9) * MIB - 4096
    assert unattributed_share(decode) == parts["unattributed"] / (201 * MIB)


def test_the_heap_is_what_is_handed_out_less_what_is_known_on_it() -> None:
    made = phases()
    made[-1].update(heap_used_bytes=60 * MIB, weights_memory_bytes=30 * MIB, python_bytes=7 * MIB)
    parts = parts_of(moments(made, None)[-1])
    assert parts["runtime_heap"] == 60 * MIB - 30 * MIB - 4096
    assert parts["kv"] == 9 * MIB  # its pages that are resident, of the 12 that are reserved
    assert parts["python"] == 7 * MIB


def test_the_arena_is_told_apart_by_its_own_counters() -> None:
    made = phases()
    prefill = parts_of(moments(made, ARENA)[3])
    assert prefill["weights_memory"] == 10 * MIB
    assert prefill["prepacked"] == 80 * MIB
    assert (prefill["activations"], prefill["arena_padding"], prefill["arena_slack"]) == (MIB, MIB, 58 * MIB)
    made[2]["peak_bytes"] = 400 * MIB
    peak = parts_of(moments(made, ARENA)[0])
    assert (peak["activations"], peak["arena_padding"], peak["arena_slack"]) == (15 * MIB, 5 * MIB, 40 * MIB)


def test_what_is_held_and_idle_may_not_be_resident() -> None:
    made = phases()[2]
    held = {p["part"]: p["bytes"] for p in parts_at(made, ARENA, "end")}
    slack, free = held["arena_slack"], held["heap_free"]
    assert slack > 10 * MIB
    assert free > 0
    for missing, left in (
        (10 * MIB, (slack - 10 * MIB, free, 0)),
        (slack + 1, (0, free - 1, 0)),
        (slack + free + 7, (0, 0, -7)),
    ):
        short = {**made, "rss_bytes": made["rss_bytes"] - held["unattributed"] - missing}
        parts = {p["part"]: p["bytes"] for p in parts_at(short, ARENA, "end")}
        assert (parts["arena_slack"], parts["heap_free"], parts["unattributed"]) == left
        assert sum(parts.values()) == short["rss_bytes"]


def test_nothing_is_packed_before_packing() -> None:
    made = phases()
    made[1]["unpacked"] = True
    made.insert(2, {**made[1], "name": "prepack", "unpacked": False})
    load, prepack = map(parts_of, moments(made, ARENA)[2:4])
    assert (load["weights_memory"], load["prepacked"], load["arena_slack"]) == (10 * MIB, 0, 0)
    assert (prepack["weights_memory"], prepack["prepacked"], prepack["arena_slack"]) == (10 * MIB, 80 * MIB, 10 * MIB)


def test_an_arena_that_was_not_asked_about_packing_counts_weights() -> None:
    parts = parts_of(moments(phases(), {**ARENA, "unpacked_bytes": None})[-1])
    assert (parts["weights_memory"], parts["prepacked"]) == (90 * MIB, 0)


def test_a_system_that_tells_only_the_total() -> None:
    made = phases()
    for record in made:
        record.update(anonymous_bytes=None, model_file_bytes=None, other_file_bytes=None, peak_bytes=None)
    found = moments(made, None)
    assert [m["moment"] for m in found] == ["import", "load", "prefill", "decode"]
    assert all(sum(p["bytes"] for p in m["parts"]) == m["bytes"] for m in found)


def test_nothing_measured_is_no_moment() -> None:
    assert moments([], None) == []
