"""What is left of the time goes into a search around the best plan: no larger, measured, and gone on with."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.compress import search
from deepseek_cli.compress.candidates import Planned, Planner
from deepseek_cli.compress.engine import Asked, _planners
from deepseek_cli.compress.loop import in_order
from deepseek_cli.compress.plan import REPORT_BYTES
from deepseek_cli.compress.spec import CompressSpec
from deepseek_cli.evaluate import TEXTS, WINDOW, cut_windows
from deepseek_cli.handle import open_model
from deepseek_cli.quantize.engine import REPORT_WINDOWS
from deepseek_cli.reporter import SILENT
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store
from deepseek_cli.tune.front import Scales
from deepseek_cli.tune.study import Study
from tests.commands.conftest import one_thread, toy  # noqa: F401
from tests.compress.texts import short_text
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
GOAL = 100_000


@pytest.fixture
def plan(toy: Path, tmp_path: Path) -> tuple[Asked, Planner, Planned]:  # noqa: F811
    store = Store(tmp_path)
    spec = CompressSpec(to_size=GOAL, time="1h", calibration=str(short_text(tmp_path)))  # type: ignore[arg-type]
    asked = Asked(open_model(str(toy), store), spec, GOAL, TEXTS, store, True, SILENT, time.monotonic())
    (planner,) = _planners(asked, tmp_path, None)
    return asked, planner, in_order([*planner.mixture(), *planner.ladder()])[0]


def trials(work: Path) -> list[Any]:
    (file,) = work.glob("search-*.journal")
    return Study.open(file, {}, Scales(("kl",), {})).trials()


def test_trials_begin_with_the_plan_and_stay_within_its_size(
    plan: tuple[Asked, Planner, Planned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, planner, best = plan
    monkeypatch.setattr(search, "MOST", 4)
    monkeypatch.setattr(search, "TOKENS", (1_024, 16_384))
    work = tmp_path / "work"
    work.mkdir()
    look = lambda seconds: search.search(  # noqa: E731
        asked.handle, asked.handle, planner, best, asked.texts, asked.store, work, seconds, SILENT
    )
    assert best.distribution and look(-1.0) is None  # no time
    found = look(3600.0)
    first, *rest = trials(work)
    assert first.recipe == {p.name: value for p, value in search.around(planner, best).items()}
    assert first.facts["size"] == best.candidate.size_bytes - planner.beside
    assert len(rest) == 3 and all(trial.facts["size"] <= best.budget for trial in rest if "size" in trial.facts)
    least = min(trial.facts["kl"] for trial in (first, *rest) if trial.state == "complete")
    assert (found.candidate.kl if found else first.facts["kl"]) == least
    before = [(trial.number, trial.facts) for trial in trials(work)]
    assert look(3600.0) == found and [(trial.number, trial.facts) for trial in trials(work)] == before


def test_trials_are_judged_between_the_windows_of_the_report_card(toy: Path, tmp_path: Path) -> None:  # noqa: F811
    handle = open_model(str(toy), Store(tmp_path))
    tokenizer = open_tokenizer(handle.root)
    ids = tokenizer.encode(TEXTS[0].read_text(encoding="utf-8"))
    places = lambda windows: [next(i for i in range(len(ids)) if ids[i : i + WINDOW] == row.tolist()) for row in windows]  # noqa: E731
    judged = search.between(handle, TEXTS[:1]).tokens
    reported = cut_windows(tokenizer, TEXTS[:1], REPORT_WINDOWS).tokens
    assert len(judged) == REPORT_WINDOWS - 1
    assert all(abs(a - b) >= WINDOW for a in places(judged) for b in places(reported))


def test_time_that_is_left_is_searched_and_the_best_of_all_attempts_is_kept(
    cli: Cli,
    toy: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "MOST", 3)
    monkeypatch.setattr(search, "ALGORITHMS", ("imatrix", "gptq", "gptaq"))
    monkeypatch.setattr(search, "TOKENS", (1_024, 16_384))
    done = cli(
        "compress", toy, "--to-size", f"{GOAL}B", "--calibration", short_text(Path()), "--time", "1h", "-o", "out", "--json"
    ).json
    (chosen,) = [c for c in done["frontier"] if c["chosen"]]
    tried = [c for c in done["frontier"] if c["measured_kl"] is not None and c["measured_bytes"] <= GOAL - REPORT_BYTES]
    assert chosen["measured_kl"] == done["report"]["kl"] == min(c["measured_kl"] for c in tried)
    assert done["met"] and {c["level"] for c in tried} <= {"balanced", "tuned-1", "tuned-2"}
    assert not Path("out.work").exists()


def test_without_optuna_what_is_missed_is_said(
    cli: Cli,
    toy: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "optuna" else found(name, *rest))
    done = cli("compress", toy, "--to-size", f"{GOAL}B", "--calibration", short_text(Path()), "--time", "1h", "-o", "out")
    assert done.code == 0 and "pip install 'deepseek-cli[tune]'" in done.err
