"""Studies of a toy: they go on where they were killed, and what is on their front can be made."""

from __future__ import annotations

import html
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.processes import ROOT
from tests.commands.conftest import one_thread, toy  # noqa: F401
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
SPACE = """
scheme = ["int4-g128", "int4-g64", "int4-g32", "int8-g32"]
embeddings = ["int4-g64", "int4-g32", "int8"]
algorithm = ["rtn", "search", "imatrix"]
tokens = { low = 1024, high = 2048 }
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "space.toml"
    file.write_text(SPACE, encoding="utf-8")
    return file


def words(model: Path, space: Path, *more: object) -> tuple[object, ...]:
    return ("tune", model, "--space", space, "--windows", 2, "--study", "toy.journal", *more)


def test_the_front_is_made_of_what_none_dominates_and_can_be_made(
    cli: Cli,
    toy: Path,  # noqa: F811
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = cli(*words(toy, space, "--trials", 12, "--html", "front.html", "--json")).json
    trials = {trial["number"]: trial for trial in done["trials"]}
    assert len(trials) == 12 and {trial["state"] for trial in trials.values()} <= {"complete", "pruned"}
    assert set(done["samplers"]) == {"tpe", "cmaes", "nsga2"}
    points = {n: (t["size"], t["kl"]) for n, t in trials.items() if t["state"] == "complete"}
    for number in done["front"]:
        size, kl = points[number]
        assert not any(a <= size and b <= kl and (a, b) != (size, kl) for a, b in points.values())
    assert not list(Path().glob("toy.journal.*passing*"))  # the models of trials are gone
    assert done["front"], done

    page = html.unescape(Path("front.html").read_text(encoding="utf-8"))
    assert re.search(r'content="default-src \'none\'; style-src \'sha256-[^\']+\';', page)
    assert page.count("<circle") == len(points) and "<script" not in page and "style=" not in page
    monkeypatch.setenv("DEEPSEEK_LANG", "zh")
    cli(*words(toy, space, "--trials", 12, "--html", "前沿.html"))
    monkeypatch.delenv("DEEPSEEK_LANG")
    chinese = Path("前沿.html").read_text(encoding="utf-8")
    assert '<html lang="zh-CN">' in chinese and "<h2>全部试验</h2>" in chinese

    chosen = trials[done["front"][-1]]
    made = cli(*words(toy, space, "--apply", chosen["number"], "-o", "made", "--json")).json
    assert made["report"]["size_bytes"] == chosen["size"]
    report = cli("eval", "made", "--against", toy, "--windows", 2, "--json").json["report"]
    assert report["kl"] == pytest.approx(chosen["kl"], rel=1e-4)
    refused = cli(*words(toy, space, "--apply", 99))
    assert refused.code == 2 and "On its front are:" in refused.err


def test_a_killed_study_goes_on_to_the_same_number_of_trials(cli: Cli, toy: Path, space: Path) -> None:  # noqa: F811
    line = [sys.executable, "-m", "deepseek_cli", *map(str, words(toy, space, "--trials", 200, "--threads", 1))]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(line, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = Path("toy.journal")
    deadline = time.monotonic() + 120
    while (not journal.is_file() or journal.read_text(encoding="utf-8").count('"first_kl"') < 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = journal.read_bytes()
    assert before.count(b'"first_kl"') >= 3
    journal.write_bytes(before + b'{"op_code": 4, "worker_')  # as a process leaves it that was killed while it wrote

    done = cli(*words(toy, space, "--trials", 200, "--time", "1s", "--json")).json  # room for one more at most
    over = [trial for trial in done["trials"] if trial["state"] in ("complete", "pruned")]
    assert len(over) >= 3
    done = cli(*words(toy, space, "--trials", len(over) + 2, "--json")).json
    states = [trial["state"] for trial in done["trials"]]
    assert len(states) - states.count("interrupted") == len(over) + 2
    assert states.count("interrupted") <= 1 and "running" not in states
    assert not list(Path().glob("*staging*"))  # what the killed one was making is gone, too


def test_two_processes_share_the_trials(cli: Cli, toy: Path, space: Path) -> None:  # noqa: F811
    done = cli(*words(toy, space, "--trials", 6, "--workers", 2, "--json")).json
    assert [trial["number"] for trial in done["trials"]] == list(range(6))


def test_a_seed_proposes_the_same(cli: Cli, toy: Path, space: Path) -> None:  # noqa: F811
    runs = [
        [trial["recipe"] for trial in cli(*words(toy, space, "--trials", 5, "--seed", 3, "--force", "--json")).json["trials"]]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_what_a_study_is_of_must_not_change(cli: Cli, toy: Path, space: Path) -> None:  # noqa: F811
    assert cli(*words(toy, space, "--trials", 1)).code == 0
    other = cli(*words(toy, space, "--objective", "speed,kl"))
    assert other.code == 2 and "another --objective" in other.err
    space.write_text(SPACE.replace('"int8-g32"', '"int8"'), encoding="utf-8")
    assert "another space" in cli(*words(toy, space)).err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--objective", "size,kll"), "Did you mean kl?"),
        (("--objective", "size"), "does not name kl"),
        (("--time", "soon"), "is not a duration"),
        (("--time", "0.000001s"), "shorter than one trial"),
        (("--trials", "0"), "--trials 0 is less than one"),
        (("--study", "damaged"), "is not a study, or is damaged"),
        (("--set", "text=short"), "has fewer than"),
        (("--html", "short"), "is not a report"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said(more: tuple[str, ...], said: str, cli: Cli, toy: Path, space: Path) -> None:  # noqa: F811
    Path("damaged").write_text('{"op_code": "nonsense"}\nnothing\n', encoding="utf-8")
    Path("short").write_text("A few words.", encoding="utf-8")
    done = cli(*words(toy, space, *more))
    assert (done.code, said in done.err) == (2, True), done.err


def test_a_space_in_which_nothing_works_says_why(cli: Cli, toy: Path, space: Path) -> None:  # noqa: F811
    space.write_text('[rules]\n"*.q_proj" = ["int8", "bf16"]\n', encoding="utf-8")  # k and v, fused with it, stay int4
    done = cli(*words(toy, space, "--trials", 2))
    assert done.code == 2 and "No recipe of the space worked" in done.err


def test_without_optuna_the_extra_is_named(cli: Cli, toy: Path, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "optuna" else found(name, *rest))
    done = cli(*words(toy, space))
    assert done.code == 4 and "pip install 'deepseek-cli[tune]'" in done.err
