from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.main import main
from deepseek_cli.profile import measure, report
from tests.profile.documents import document
from tests.toys import DEPLOYABLE, make_toy

TOKENS = ["--prompt-tokens", "12", "--new-tokens", "3", "--threads", "1"]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, with an empty store; whoever asks for `toy` finds one there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DEEPSEEK_LANG", "en")
    return tmp_path


@pytest.fixture
def toy(project: Path) -> Path:
    make_toy(project / "toy", **DEPLOYABLE)
    return project / "toy"


@pytest.fixture
def quick(toy: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Measuring made up: the calls it got."""
    calls: list[dict[str, Any]] = []

    def profile(ref: str, spec: Any, **options: Any) -> tuple[dict[str, Any], None]:
        calls.append({"ref": ref, "spec": spec, **options})
        return document(name="toy"), None

    monkeypatch.setattr(measure, "profile", profile)
    return calls


def test_the_whole_command(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "toy", "--memory-profile", "--save", "toy.json", *TOKENS]) == 0
    shown = capsys.readouterr().out
    assert "resident memory" in shown
    assert "toy-memory.html is written." in shown
    saved = json.loads(Path("toy.json").read_text())
    assert [p["phase"] for p in saved["phases"]] == ["import", "load", "prefill", "decode"]
    assert saved["what_if"]["now"] == {"context": saved["kv"]["context"], "batch": 1, "kv": "fp32", "scheme": "as it is"}
    assert saved["what_if"]["schemes"]["as it is"] == sum(row["bytes"] for row in saved["weights"])
    assert saved["overhead"]["plain_seconds"] > 0
    assert "Watching cost" in shown
    assert saved["run"]["command"] == "deepseek profile toy --memory-profile --save toy.json --prompt-tokens 12 --new-tokens 3"
    assert Path("toy-memory.html").read_text().startswith("<!doctype html>")


def test_quiet_prints_the_page(quick: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "toy", "--memory-profile", "-q"]) == 0
    assert capsys.readouterr().out == "toy-memory.html\n"


def test_json_is_the_document(quick: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "toy", "--json", "--html", "page.html"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "deepseek.profile/2"
    assert found["ok"] is True
    assert found["page"] == "page.html"
    assert found["moments"][0]["parts"][-1]["part"] == "unattributed"


def test_the_json_of_one_run_is_the_baseline_of_the_next(quick: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    main(["profile", "toy", "--json"])
    Path("a.json").write_text(capsys.readouterr().out)
    assert main(["profile", "toy", "--baseline", "a.json", "--max-growth", "5%", "--html", "b.html"]) == 0
    assert "--max-growth: 220.0 MiB is within 231.0 MiB." in capsys.readouterr().out
    assert '"baseline":{"schema"' in Path("b.html").read_text()


def test_a_peak_above_the_gate_is_exit_1(quick: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "toy", "--max-peak", "100MiB", "--save", "x.md"]) == 1
    assert "--max-peak: 220.0 MiB is above 100.0 MiB." in capsys.readouterr().out
    assert Path("x.md").exists()


def test_a_leak_is_exit_1(quick: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    leak = {"iterations": 9, "slope_bytes": 2048.0 * 1024, "low_bytes": 2e6, "high_bytes": 3e6, "leaks": True, "points": []}
    monkeypatch.setattr(measure, "profile", lambda *_, **__: ({**document(), "leak": leak}, None))
    assert main(["profile", "toy", "--leak", "9"]) == 1
    assert "Memory grows by 2,048.0 KiB each time" in capsys.readouterr().out


def test_a_trace_is_saved_beside_the_figures(quick: list[Any]) -> None:
    assert main(["profile", "toy", "--save", "x.trace.json", "--save", "x.json"]) == 0
    assert json.loads(Path("x.trace.json").read_text())["traceEvents"]
    assert "moments" in json.loads(Path("x.json").read_text())
    assert main(["profile", "toy", "--save", "x.trace.json"]) == 0  # a report of ours may be replaced


def test_a_baseline_of_the_schema_before_is_read(quick: list[Any]) -> None:
    Path("old.json").write_text(json.dumps({**document(), "schema": "deepseek.profile/1"}))
    assert main(["profile", "toy", "--baseline", "old.json", "--max-growth", "5%"]) == 0


def test_growth_above_the_gate_is_exit_1(quick: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    before = document()
    before["peak"]["bytes"] //= 2
    Path("before.json").write_text(json.dumps(before))
    assert main(["profile", "toy", "--baseline", "before.json", "--max-growth", "5%", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    limit = int(before["peak"]["bytes"] * 1.05)
    assert found["gates"] == [{"name": "max-growth", "peak_bytes": 220 << 20, "limit_bytes": limit, "passed": False}]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "No such file"),
        ("not json", "not JSON"),
        ("[]", "none"),
        ('{"schema": "deepseek.profile/9"}', "deepseek.profile/9"),
        ('{"schema": "deepseek.profile/1", "failed": {"phase": "load"}}', "failed"),
        ('{"schema": "deepseek.profile/1", "moments": [{}]}', "damaged"),
        ('{"schema": "deepseek.profile/1", "peak": {"bytes": "1"}, "moments": 7}', "damaged"),
    ],
)
def test_a_baseline_that_is_none_is_exit_2(
    quick: list[Any], capsys: pytest.CaptureFixture[str], content: str | None, word: str
) -> None:
    if content is not None:
        Path("old.json").write_text(content)
    assert main(["profile", "toy", "--baseline", "old.json"]) == 2
    said = capsys.readouterr().err
    assert "old.json" in said
    assert word in said
    assert not quick


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--max-growth", "5%"], "--baseline"),
        (["--max-growth", "much", "--baseline", "x"], "much"),
        (["--save", "x.txt"], "x.txt"),
        (["--new-tokens", "0"], "--new-tokens"),
        (["--leak", "2"], "--leak"),
        (["--max-peak", "many"], "many"),
        (["--set", "sample_ms=0"], "sample_ms"),
    ],
)
def test_wrong_options_are_exit_2(quick: list[Any], capsys: pytest.CaptureFixture[str], options: list[str], word: str) -> None:
    assert main(["profile", "toy", *options]) == 2
    assert word in capsys.readouterr().err
    assert not quick


def test_a_place_that_cannot_be_written_is_exit_4_before_the_run(quick: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "toy", "--html", "toy/config.json/page.html"]) == 4
    assert "toy/config.json/page.html" in capsys.readouterr().err
    assert not quick


def test_a_file_that_is_no_report_is_kept(quick: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.html").write_text("mine")
    assert main(["profile", "toy", "--html", "notes.html"]) == 2
    assert Path("notes.html").read_text() == "mine"
    assert main(["profile", "toy", "--html", "notes.html", "--force"]) == 0


def test_a_model_that_is_not_there_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "nowhere", "--memory-profile"]) == 3
    assert "nowhere" in capsys.readouterr().err
    assert not list(Path().glob("*.html"))


def test_a_run_that_fails_leaves_a_page_that_says_so(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "toy", "--html", "page.html", "--device", "mps", "--save", "page.json", *TOKENS]) == 4
    said = capsys.readouterr()
    assert "page.html holds what was measured until then." in said.err
    assert json.loads(Path("page.json").read_text())["failed"]["phase"] == "load"
    assert '"failed":{"phase":"load"' in Path("page.html").read_text()


def test_a_dry_run_measures_nothing(quick: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "toy", "--memory-profile", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "fresh process (import, load, prefill, decode): 512 tokens in, 32 out." in shown
    assert "toy-memory.html would be written." in shown
    assert not quick
    assert not Path("toy-memory.html").exists()


def test_the_estimate_runs_nothing(quick: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "toy", "--estimate", "--context", "200"]) == 0
    shown = capsys.readouterr().out
    assert "200 tokens" in shown
    assert not quick


def test_the_project_file_names_the_model(quick: list[Any], toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("deepseek.toml").write_text('model = "toy"\n[profile]\nmemory_profile = true\n')
    assert main(["profile"]) == 0
    assert quick[0]["ref"] == "toy"
    assert Path("toy-memory.html").exists()


def test_help_fits_twelve_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--help"]) == 0
    own = capsys.readouterr().out.split("Also:")[0]
    assert own.count("\n  --") <= 12
    assert report.MARK not in own
