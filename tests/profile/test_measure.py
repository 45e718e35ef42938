from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.errors import DeepseekError, MemoryShort, ModelCorrupt, ModelNotFound, UsageError
from deepseek_cli.handle import open_model
from deepseek_cli.manifest import Manifest, write_manifest
from deepseek_cli.ops.onnx_ops import emit
from deepseek_cli.profile import measure, worker
from deepseek_cli.profile.parts import ESTIMATED, unattributed_share
from deepseek_cli.profile.spec import ProfileSpec
from deepseek_cli.profile.trace import PROFILED, render_trace
from deepseek_cli.store import Store
from tests.profile.documents import phases
from tests.toys import DEPLOYABLE, make_toy

SMALL = ProfileSpec(prompt_tokens=12, new_tokens=3)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    make_toy(folder, **DEPLOYABLE)
    return folder


@pytest.fixture(scope="module")
def measured(toy: Path) -> dict[str, Any]:
    document, error = measure.profile(str(toy), SMALL, home=toy / "home", threads=1, command="deepseek profile toy")
    assert error is None
    return document


def test_all_phases_are_measured_in_order(measured: dict[str, Any]) -> None:
    assert [p["phase"] for p in measured["phases"]] == ["import", "load", "prefill", "decode"]
    assert [p["tokens"] for p in measured["phases"]] == [0, 0, 12, 3]
    ends = [p["start_seconds"] + p["seconds"] for p in measured["phases"]]
    assert all(p["start_seconds"] >= end for p, end in zip(measured["phases"][1:], ends, strict=False))
    assert measured["failed"] is None


def test_every_moment_sums_exactly(measured: dict[str, Any]) -> None:
    for moment in measured["moments"]:
        assert sum(p["bytes"] for p in moment["parts"]) == moment["bytes"]
    rss = {p["phase"]: p["rss_bytes"] for p in measured["phases"]}
    assert all(m["bytes"] == rss[m["moment"]] for m in measured["moments"][1:])
    assert measured["peak"]["bytes"] == max(p["peak_bytes"] for p in measured["phases"])


def test_weights_and_cache_are_exact(measured: dict[str, Any], toy: Path) -> None:
    assert sum(w["bytes"] for w in measured["weights"]) == sum(layer["weights_bytes"] for layer in measured["layers"])
    kv = measured["kv"]
    assert kv["positions"] == 15
    assert kv["used_bytes"] == 15 * kv["bytes_per_token"] == 15 * 2 * 2 * 2 * 16 * 4
    assert sum(layer["kv_bytes"] for layer in measured["layers"]) == kv["used_bytes"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the total is known")
def test_the_estimate_stands_beside_what_was_measured(measured: dict[str, Any]) -> None:
    rows = {row["part"]: row for row in measured["estimate"]["rows"]}
    assert list(rows) == list(ESTIMATED)
    peak = rows.pop("peak")
    assert peak["measured_bytes"] == measured["peak"]["bytes"] == sum(row["measured_bytes"] for row in rows.values())
    assert peak["estimated_bytes"] == sum(row["estimated_bytes"] for row in rows.values())
    assert abs(peak["estimated_bytes"] - peak["measured_bytes"]) < max(30 << 20, 0.05 * peak["measured_bytes"])
    assert peak["error"] == pytest.approx(peak["estimated_bytes"] / peak["measured_bytes"] - 1)


def test_layers_are_timed(measured: dict[str, Any]) -> None:
    assert [layer["layer"] for layer in measured["layers"]] == ["embedding", "0", "1", "head"]
    assert all(layer["prefill_seconds"] > 0 and layer["decode_seconds"] > 0 for layer in measured["layers"])


def test_the_document_is_json_with_these_keys(measured: dict[str, Any]) -> None:
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    assert measured["schema"] == "deepseek.profile/2"
    assert " ".join(measured) == (
        "schema failed model run machine peak phases moments estimate weights tensors kv layers operators"
        " layer_operators traced nodes arena leak overhead timeline what_if advice"
    )


def test_layers_tell_what_they_compute_move_and_allocate(measured: dict[str, Any]) -> None:
    rows = {layer["layer"]: layer for layer in measured["layers"]}
    assert all(row["decode_flops"] > 0 and row["prefill_flops"] > row["decode_flops"] for n, row in rows.items() if n.isdigit())
    weights, cache = 4 * parameters_of(measured, "0"), 15 * 2 * 2 * 16 * 4
    assert rows["0"]["moved_bytes"] == weights + cache
    assert all(row["activation_bytes"] > 0 for row in rows.values())
    hidden = 12 * 64 * 4  # a row of float32 for each token of the prompt
    assert rows["0"]["activation_bytes"] >= 2 * hidden


def parameters_of(document: dict[str, Any], layer: str) -> int:
    return sum(tensor["parameters"] for tensor in document["tensors"] if tensor["layer"] == layer)


def test_tensors_and_kinds_are_exact(measured: dict[str, Any]) -> None:
    assert sum(tensor["bytes"] for tensor in measured["tensors"]) == sum(w["bytes"] for w in measured["weights"])
    assert measured["kv"]["kinds"] == [
        {"kind": "full", "layers": 2, "values_per_token": 2 * 2 * 16, "rows_per_token": 4, "window": None}
    ]
    assert measured["kv"]["bytes_per_value"] == 4
    assert measured["model"]["parameters"] == measured["model"]["active_parameters"]
    assert measured["model"]["parameters"] == sum(tensor["parameters"] for tensor in measured["tensors"])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the total is known")
def test_nearly_all_is_attributed(measured: dict[str, Any]) -> None:
    assert all(unattributed_share(moment) <= 0.05 for moment in measured["moments"])


def test_the_timeline_runs_to_the_end(measured: dict[str, Any]) -> None:
    points, last = measured["timeline"]["points"], measured["phases"][-1]
    assert 10 < len(points) <= measure.POINTS
    assert points == sorted(points)
    assert points[-1][0] / 1000 <= last["start_seconds"] + last["seconds"] + 0.001


@pytest.fixture(scope="module")
def bundle(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    handle = open_model(str(toy), Store(toy / "home"))
    emit(handle.architecture, handle.config, handle.tensors, folder / "model.onnx", context=64)
    shutil.copy(toy / "config.json", folder)
    write_manifest(folder, Manifest("toy+cpu", "bundle"))
    return folder


@pytest.fixture(scope="module")
def bundled(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A bundle's document, with everything that can be asked for, and the nodes that ran."""
    nodes: list[dict[str, Any]] = []
    spec = replace(SMALL, leak=5, overhead=True)
    document, error = measure.profile(str(bundle), spec, home=tmp_path_factory.mktemp("home"), context=64, threads=1, nodes=nodes)
    assert error is None
    return document, nodes


def test_a_bundle_adds_operators_and_the_arena(bundled: tuple[dict[str, Any], list[Any]]) -> None:
    document, _ = bundled
    assert document["model"]["runtime"] == "ONNX Runtime"
    assert document["arena"]["weights_bytes"] > 0
    assert {"GroupQueryAttention", "FusedMatMul"} <= {row["operator"] for row in document["operators"]}
    assert {row["operator"] for row in document["nodes"]} == {row["operator"] for row in document["operators"]}
    assert all(layer["decode_seconds"] > 0 for layer in document["layers"] if layer["layer"] != "other")
    assert sum(w["bytes"] for w in document["weights"]) == sum(layer["weights_bytes"] for layer in document["layers"])
    assert document["kv"]["used_bytes"] == 15 * 2 * 2 * 2 * 16 * 4 <= document["kv"]["resident_bytes"]
    for moment in document["moments"]:
        assert sum(p["bytes"] for p in moment["parts"]) == moment["bytes"]


def told_apart(bundle: Path, home: Path) -> dict[str, Any]:
    """A document with packing as a phase: a toy's may be over before the watching thread had its turn, so several are tried."""
    for _ in range(8):
        document, error = measure.profile(str(bundle), SMALL, home=home, context=64, threads=1)
        assert error is None
        if any(p["phase"] == "prepack" for p in document["phases"]):
            return document
    pytest.fail("packing was never told from loading")


def test_a_bundle_says_beforehand_how_many_phases_it_has(toy: Path, bundle: Path, tmp_path: Path) -> None:
    assert measure.expected(measure.packs(str(bundle), tmp_path)) == ("import", "load", "prepack", "prefill", "decode")
    assert measure.expected(measure.packs(str(toy), tmp_path)) == ("import", "load", "prefill", "decode")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the log is not read back")
def test_packing_is_a_phase_of_its_own(bundle: Path, tmp_path: Path) -> None:
    document = told_apart(bundle, tmp_path)
    phases = document["phases"]
    assert [p["phase"] for p in phases] == ["import", "load", "prepack", "prefill", "decode"]
    assert phases[1]["start_seconds"] + phases[1]["seconds"] == pytest.approx(phases[2]["start_seconds"])
    parts = {m["moment"]: {p["part"]: p["bytes"] for p in m["parts"]} for m in document["moments"]}
    packed = document["arena"]["weights_bytes"] - document["arena"]["unpacked_bytes"]
    assert parts["load"]["prepacked"] == 0 < packed == parts["prepack"]["prepacked"] == parts["decode"]["prepacked"]


def test_watching_is_held_against_a_run_unwatched(bundled: tuple[dict[str, Any], list[Any]]) -> None:
    document, _ = bundled
    runs = {f"{run}_{clock}" for run in ("plain", "sampled", "profiled") for clock in ("seconds", "cpu_seconds")}
    assert set(document["overhead"]) == {*runs, "sampling_seconds", "sampling_cpu_seconds"}
    assert all(seconds > 0 for seconds in document["overhead"].values())


def test_nodes_are_looked_at_in_a_few_steps_that_stand_for_all(bundle: Path, tmp_path: Path) -> None:
    spec = ProfileSpec(prompt_tokens=12, new_tokens=48)
    document, error = measure.profile(str(bundle), spec, home=tmp_path, context=64, threads=1)
    assert error is None
    seen = document["traced"]["decode_steps"]
    assert 1 <= seen < document["traced"]["of_steps"] == 48
    attention = [row for row in document["layer_operators"] if row["operator"] == "GroupQueryAttention"]
    assert [row["layer"] for row in sorted(attention, key=lambda row: row["layer"])] == ["0", "1"]
    assert all(row["calls"] == 1 + seen for row in attention)
    for clock in ("prefill_seconds", "decode_seconds"):
        together = sum(row[clock] for row in document["layer_operators"])
        assert together == pytest.approx(sum(row[clock] for row in document["operators"]))
        assert together == pytest.approx(sum(row[clock] for row in document["layers"]))


def test_the_leak_test_repeats_the_work(bundled: tuple[dict[str, Any], list[Any]]) -> None:
    document, _ = bundled
    leak = document["leak"]
    assert leak["iterations"] == len(leak["points"]) == 5
    assert leak["leaks"] is False
    assert document["kv"]["positions"] == 15


def test_a_trace_is_read_back(bundled: tuple[dict[str, Any], list[Any]]) -> None:
    document, nodes = bundled
    trace = json.loads(render_trace(document, nodes))
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert all({"name", "cat", "pid", "tid", "ts", "dur"} <= set(e) and e["ts"] >= 0 <= e["dur"] for e in spans)
    assert [e["name"] for e in spans if e["cat"] == "phase"] == [p["phase"] for p in document["phases"]]
    assert sum(e["pid"] == PROFILED for e in spans) == len(nodes) > 60
    counters = [e for e in trace["traceEvents"] if e["ph"] == "C"]
    assert [sum(e["args"].values()) for e in counters] == [point[1] for point in document["timeline"]["points"]]
    assert {e["ph"] for e in trace["traceEvents"]} == {"M", "X", "C"}


def test_operators_may_be_left_out(bundle: Path, tmp_path: Path) -> None:
    spec = ProfileSpec(prompt_tokens=12, new_tokens=3, operators=False)
    document, _ = measure.profile(str(bundle), spec, home=tmp_path, context=64)
    assert document["operators"] == document["nodes"] == []
    assert document["arena"] is document["overhead"] is document["leak"] is None
    assert document["weights"]


def test_a_broken_bundle_says_where_it_broke(bundle: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(bundle, tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"no graph")
    document, error = measure.profile(str(broken), SMALL, home=tmp_path, context=64)
    assert type(error) is ModelCorrupt
    assert document["failed"]["phase"] == "load"
    assert "model.onnx" in document["failed"]["message"]


def test_what_opening_raises_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        measure.profile("nowhere", SMALL, home=tmp_path)
    assert caught.value.facts["ref"] == "nowhere"


def test_too_many_tokens_are_refused_before_the_run(toy: Path) -> None:
    with pytest.raises(UsageError, match="512"):
        measure.profile(str(toy), ProfileSpec(prompt_tokens=500, new_tokens=12), home=toy / "home")


def test_a_run_that_fails_keeps_what_it_measured(tmp_path: Path) -> None:
    make_toy(tmp_path, **DEPLOYABLE)
    document, error = measure.profile(str(tmp_path), SMALL, home=tmp_path / "home", device="mps")
    assert error is not None
    assert error.exit_code == 4
    assert document["failed"] == {"phase": "load", "code": error.code, "message": str(error), "exit_code": 4}
    assert [p["phase"] for p in document["phases"]] == ["import"]
    assert document["moments"][0]["moment"] == "peak"
    assert document["timeline"]["points"]


def test_a_killed_run_says_where() -> None:
    run = measure.Run(0.0, phases=phases()[:2])
    error = measure.died(-9, "", run)
    assert isinstance(error, MemoryShort)
    assert "prefill" in str(error)
    assert run.failed_in == "prefill"


def test_a_crash_says_its_last_line() -> None:
    error = measure.died(1, "Traceback\nValueError: no such kernel\n", measure.Run(0.0))
    assert type(error) is DeepseekError
    assert "import: ValueError: no such kernel" in str(error)


def test_an_error_crosses_the_process_as_it_was() -> None:
    run = measure.Run(0.0)
    event = {
        "event": "error",
        "phase": "load",
        "kind": "ModelCorrupt",
        "message": "{file} has {n:.1f}.",
        "hint": "H",
        "facts": {"file": "f", "n": 1.25},
    }
    measure.take(run, event, measure.SILENT, "")
    assert type(run.error) is ModelCorrupt
    assert str(run.error) == "f has 1.2. H"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_limit_smaller_than_the_model_is_said_before_loading(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "process_limit", lambda: 1000)
    with pytest.raises(MemoryShort, match=r"toy takes 2[.\d]* .B of memory for its weights alone, .* may hold 1.0 kB"):
        worker.require_limit(2_000_000, "toy")
    worker.require_limit(999, "toy")


def test_the_folder_the_user_stands_in_lends_no_modules(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('imported from the wrong place')")
    monkeypatch.chdir(tmp_path)
    document, error = measure.profile(str(toy), SMALL, home=tmp_path)
    assert error is None
    assert document["peak"]["bytes"] > 0
