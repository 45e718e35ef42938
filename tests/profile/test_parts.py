from __future__ import annotations

from deepseek_cli.profile.parts import PARTS, moments, unattributed_share
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


def test_what_is_not_explained_is_shown() -> None:
    decode = moments(phases(), None)[-1]
    parts = {p["part"]: p["bytes"] for p in decode["parts"]}
    assert parts["weights_memory"] == parts["activations"] == 0
    assert parts["unattributed"] == 201 * MIB - (5 + 15 + 40 + 9) * MIB - 4096
    assert 0.6 < unattributed_share(decode) < 0.7


def test_the_import_phase_explains_itself() -> None:
    start = moments(phases(), ARENA)[1]
    assert start["parts"][-1]["bytes"] == 0


def test_a_system_that_tells_only_the_total() -> None:
    made = phases()
    for record in made:
        record.update(anonymous_bytes=None, model_file_bytes=None, other_file_bytes=None, peak_bytes=None)
    found = moments(made, None)
    assert [m["moment"] for m in found] == ["import", "load", "prefill", "decode"]
    assert all(sum(p["bytes"] for p in m["parts"]) == m["bytes"] for m in found)


def test_nothing_measured_is_no_moment() -> None:
    assert moments([], None) == []
