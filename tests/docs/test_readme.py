"""Both READMEs say the same, and say what is true: of the commands, of the demo, of the figures, of the files."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli import commands, demo
from deepseek_cli.commands import _app

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "README.zh-CN.md"]
CHINESE = [*(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.zh-CN.md")), "README.zh-CN.md"]
WRITTEN = [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"))]
MAKE = runpy.run_path(str(ROOT / "docs" / "make_readme.py"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def lines_of(name: str, language: str) -> list[str]:
    """The lines of a page's fenced blocks, without comments."""
    blocks = re.findall(rf"(?ms)^```{language}\n(.*?)^```", read(name))
    return [line.split("  #")[0].rstrip() for block in blocks for line in block.splitlines()]


def test_both_pages_give_the_same_commands() -> None:
    english, chinese = ([lines_of(name, kind) for kind in ("sh", "python", "console")] for name in PAGES)
    assert english == chinese


@pytest.mark.parametrize("line", [line for line in lines_of("README.md", "sh") if line.startswith("deepseek ")])
def test_a_command_line_is_one_that_the_command_takes(line: str) -> None:
    _, name, *words = shlex.split(line)
    module = commands.load(name)
    given = _app.parse(name, module, words)
    _app._arguments(name, _app.arguments_of(module), list(given["arguments"] or []))


def test_make_knows_the_targets_that_are_named() -> None:
    named = {line.split()[1] for line in lines_of("README.md", "sh") if line.startswith("make ")}
    assert named and named <= set(re.findall(r"(?m)^(\w+):", read("Makefile")))


def issued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What `deepseek demo` announces, on answers like those of the real steps."""
    name = "SmolLM2-135M-Instruct"
    answers: dict[str, Any] = {
        "pull": {"name": name, "parameters": 1},
        "quantize": {"name": f"{name}@int4-g32-fast", "bytes": 1, "report": None},
        "deploy": {"name": f"{name}@int4-g32-fast+cpu"},
        "verify": {"name": "", "level": "L3"},
        "run": {"text": ""},
        "bench": {"arms": [{"metrics": {"decode@0": {"median": 1.0}}}] * 2},
        "profile": {},
    }
    monkeypatch.setattr(demo, "deepseek", lambda argv, environment: answers.get(argv[0], {}))
    monkeypatch.setattr(demo, "require_space", lambda folder, megabytes: None)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    demo.walk(demo.MODEL, Path("demo"), {}, said.append)
    return said


def test_the_transcript_is_of_the_demo_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = [line for line in MAKE["TRANSCRIPT"].read_text(encoding="utf-8").splitlines() if line.startswith("$ ")]
    assert shown == issued(monkeypatch, tmp_path), "run: python docs/make_readme.py --record"


def test_progress_and_temporary_paths_stay_out_of_the_transcript(tmp_path: Path) -> None:
    seen = (
        "$ deepseek pull x\nquantize: 96.6 MB to do\nquantize: 57.2 MB of 96.6 MB, 59 %\nProfiling operators: 4 phases in 9.1 s\n"
        f"x: 97 MB, at {tmp_path}/demo.  \n"
    )
    assert MAKE["clean"](seen, tmp_path) == "$ deepseek pull x\nx: 97 MB, at demo.\n"


@pytest.mark.parametrize("language", MAKE["PAGES"])
def test_the_pages_hold_the_transcript_and_the_figures(language: str) -> None:
    page = MAKE["PAGES"][language]
    assert page.read_text(encoding="utf-8") == MAKE["filled"](language), "run: python docs/make_readme.py"


@pytest.mark.parametrize("language", MAKE["PAGES"])
def test_what_the_speed_benchmark_saves_becomes_a_table(language: str) -> None:
    metrics = {"prefill@512": {"median": 1234.5}, "decode@0": {"median": 200.4}, "decode@512": {"median": 99.9}}
    saved = {
        "settings": {"rounds": 10, "threads": 2},
        "environment": {"processor": "Toy", "threads": 2},
        "arms": [
            {"name": "llama.cpp Q4_0", "head": "Q8_0", "kind": "peer", "bytes": 91e6, "metrics": metrics},
            {"name": "int4-g64, head int4", "head": "int4-g64", "kind": "bundle", "bytes": 88e6, "metrics": metrics},
        ],
        "kl": {"llama.cpp Q4_0": 0.35412, "int4-g64, head int4": 0.4},
    }
    _, _, peer, ours, _, note = MAKE["table"]("toy", saved, MAKE["WORDS"][language])
    assert peer == "| llama.cpp | Q4_0 | Q8_0 | 91 | 0.354 | 1,234 | 200 | 100 |"
    assert ours == "| **deepseek** | int4-g64 | int4-g64 | 88 | 0.400 | 1,234 | 200 | 100 |"
    assert "Toy" in note and "10" in note


@pytest.mark.parametrize("name", WRITTEN)
def test_links_lead_to_files(name: str) -> None:
    folder = (ROOT / name).parent
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", read(name)) if "://" not in target]
    assert [target for target in targets if target and not (folder / target).exists()] == []


@pytest.mark.parametrize("name", CHINESE)
def test_chinese_is_punctuated_as_chinese(name: str) -> None:
    prose = re.sub(r"(?ms)^```.*?^```|<!--.*?-->", "", read(name))
    prose = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "`", prose))
    assert re.findall(r".?[\u4e00-\u9fff`][]*]*[,:;?!()]|[,:;?!()][\u4e00-\u9fff]", prose) == []
